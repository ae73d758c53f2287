"""Hostile requests and records without end, from a seed, and the search for what they did: ``make fuzz``."""
