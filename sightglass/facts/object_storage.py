"""Names in object storage."""

S3_REGION = "us-east-1"
LOKI_BUCKET = "loki"
TEMPO_BUCKET = "tempo"
