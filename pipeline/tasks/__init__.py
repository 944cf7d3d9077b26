"""What workers do. Each module holds the tasks of one verb; only `app` and these know Celery.

A task decides nothing from its message but where to look: the ledger says what is to be done.
"""
