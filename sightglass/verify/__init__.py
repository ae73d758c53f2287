"""Proof that every signal arrives: real predictions, each looked for in the server where it belongs."""
