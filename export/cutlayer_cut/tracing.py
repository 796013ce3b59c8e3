"""What every trace needs: torch's tracers keep quiet, and nothing but the model decides by values."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

from torch.distributions import Distribution

__all__ = ["tracing"]

_LOGGERS = (
    *("torch.export", "torch.fx.experimental.symbolic_shapes", "torch.fx.experimental.recording"),
    *("torch.onnx", "onnxscript", "onnx_ir"),
)


@contextmanager
def tracing() -> Iterator[None]:
    """No warnings, no logs below errors, and none of the graphs that torch prints when it gives up.

    Distributions do not check their arguments, which would decide by values.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    checked = Distribution._validate_args  # noqa: SLF001 - it can be set, but not be asked for
    Distribution.set_default_validate_args(False)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        Distribution.set_default_validate_args(checked)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
