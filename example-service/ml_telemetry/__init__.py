"""Telemetry of a machine-learning service: one contract, and a request path that pays as little as possible for it."""
