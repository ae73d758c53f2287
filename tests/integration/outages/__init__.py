"""One stack for tests that stop its servers and start them again."""
