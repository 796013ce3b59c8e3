"""Train and eval mode of a whole module, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["mode"]


@contextmanager
def mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Put ``module`` and all that it holds into train or eval mode; afterwards each has its own mode again."""
    modes = {each: each.training for each in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for each, was_training in modes.items():
            each.training = was_training
