"""``certificate.json`` of a bundle: how much its graphs differ from torch."""

import math

import msgspec

__all__ = ["TOLERANCE", "Certificate"]

TOLERANCE = 1e-4
"""Largest relative error against torch with which a bundle may be used."""


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Greatest relative errors against torch, of the graphs in float32.

    ``errors`` has one for the smashed data of each graph (``inference.z``, ``z``) and for each ``gradients.<name>``,
    ``params.<name>``, ``buffers.<name>`` and ``state.<name>``; `cutlayer_export.certificate` says how they are
    measured.
    """

    steps: int
    batch_sizes: tuple[int, ...]
    errors: dict[str, float]
    redrawn: int = 0
    """Draws of data that were replaced since rounding decided them in torch, too: a ReLU at zero, a tied maximum."""
    precision_error: float = 0.0
    """Error that reduced precision adds to inference: RMS of the differences, relative to the RMS of the smashed
    data."""
    precision_accuracies: tuple[float, float] | None = None
    """Share of the calibration samples that are classified right in float32, and in reduced precision; None if the
    samples have no classes, or were not given."""
    arrangements: dict[str, float] = {}
    """The greatest error of each other arrangement."""
    left_out: dict[str, str] = {}
    """Arrangements that would have been in the bundle, had they trained as torch does: how they differ."""

    @property
    def worst(self) -> float:
        """The greatest of all errors, infinite if there is none or one is not a number."""
        every = (*self.errors.values(), *self.arrangements.values())
        return max(map(_or_infinite, every), default=math.inf) if self.errors else math.inf

    @property
    def valid(self) -> bool:
        """Whether a board may use the bundle."""
        return self.worst <= TOLERANCE


def _or_infinite(error: float) -> float:
    return math.inf if math.isnan(error) else error
