"""The stack on one machine: where servers come from, what is started, and what watches it."""
