"""The decision record's table: the same tasks through Celery, RQ, dramatiq and huey, then the same number through chords.

One module per library says how its worker is started, how a task is sent, and what it still holds after a kill; the
contest knows nothing of any library. Every worker has four processes, writes its completions into the same file, logs
nothing, and has the same Valkey with an append-only file.
"""
