"""What the errors of small tensors are measured by."""

from collections.abc import Mapping

__all__ = ["least_scales"]

_NOISE, _ZERO = 0.01, 1e-9


def least_scales(greatest: Mapping[str, float]) -> dict[str, float]:
    """For each tensor, a hundredth of the greatest value of any tensor of its kind; or that value, if it is zero in float64.

    A tensor of smaller values is mostly rounding. One that is zero in float64 is nothing else, as the gradient of a bias
    before BatchNorm: a sum over all places of an image, of which each may have the same rounding error.

    Args:
        greatest: greatest absolute values by name. Names begin with their kind, which for an optimizer's state is the
            moment: ``gradients.0.weight``, ``state.variance.0.weight``.
    """
    kinds: dict[str, float] = {}
    for name, value in greatest.items():
        kinds[_kind(name)] = max(kinds.get(_kind(name), 0.0), value)
    return {
        name: (1.0 if value <= _ZERO * kinds[_kind(name)] else _NOISE) * kinds[_kind(name)]
        for name, value in greatest.items()
    }


def _kind(name: str) -> str:
    first, _, rest = name.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if first.endswith("state") else first
