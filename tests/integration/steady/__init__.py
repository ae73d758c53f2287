"""One stack for tests that leave it as it is."""
