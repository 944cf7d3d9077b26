"""Status, verification, health and metrics: these modules read everything and write nothing to the index."""
