"""Everything that prints figures of a running stack."""
