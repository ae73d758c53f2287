"""The tool behind ``make``: runs the stack, proves that every signal arrives."""
