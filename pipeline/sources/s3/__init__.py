"""A bucket as a source: objects are documents, and a queue tells which of them changed.

`source` looks at objects, `watch` turns the queue's messages into deliveries, `held` keeps every message that is not
settled yet, `aws` says what an error means, `provision` creates bucket and queues. boto3 enters here and nowhere above.
"""

from pipeline.sources.s3.source import S3Source

__all__ = ["S3Source"]
