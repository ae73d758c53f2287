"""What asks others: HTTP, the backends, kubectl, and waiting with a deadline."""
