"""A text classifier for news posts: what an ML engineer replaces to serve another model with the same telemetry."""
