"""Load on the service: real posts, some of them corrupted, each request with a trace of its own."""
