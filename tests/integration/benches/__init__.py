"""Benches at their full size, which are long."""
