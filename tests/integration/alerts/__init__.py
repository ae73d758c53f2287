"""One stack for faults of every kind, floods among them."""
