"""`dropdex up`: every program of the pipeline in one terminal."""
