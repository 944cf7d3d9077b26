"""Redis: the URLs that name it, and the Valkey that dropdex starts where none is given."""
