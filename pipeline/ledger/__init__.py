"""What was looked at and what of it is published, in Redis: the ledger, leases, and the progress that watchers report."""
