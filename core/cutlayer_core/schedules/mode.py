"""What a client does in one epoch."""

from enum import Enum

__all__ = ["Mode"]


class Mode(Enum):
    """The three things a client can do in an epoch (Chen et al., arXiv 2107.09786: states A, B and C)."""

    EXCHANGE = "exchange"
    """Smashed data up, cut gradients down, both sides update."""
    FORWARD = "forward"
    """Smashed data up only; the server updates, the client does not."""
    SILENT = "silent"
    """Nothing travels; the server trains on what it kept."""
