"""A folder as a source: files are documents, and kernel events or polling report which of them changed."""
