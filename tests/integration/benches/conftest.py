"""The stack of this folder's tests."""

from tests.integration.running import stack

__all__ = ["stack"]
