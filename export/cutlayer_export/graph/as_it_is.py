"""How a substitute leaves a call to torch's own function."""

__all__ = ["AsItIs"]


class AsItIs(Exception):
    """Torch's own function is to be called; an engine may have it, or refuse it by name."""
