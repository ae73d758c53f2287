"""The walk of docs/your-model.md, on a stack of its own."""
