"""What a client-side model is made from: the model, its cut, its optimizer, and what its inputs are."""

from typing import Annotated, Any, Literal

import msgspec

from cutlayer_core.trial.optimizers import Optimizer

__all__ = ["TRAINABLE", "WHOLE", "InputSpec", "Model", "Recipe", "Spec"]

WHOLE = "none"
"""The cut that means the whole model, for inference."""
TRAINABLE = "^(all|none|last:[1-9][0-9]{0,3})$"
"""What `Model.trainable` may be."""
_AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Shape and dtype of one tensor; the batch dimension is left out."""

    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0)], ...], msgspec.Meta(max_length=8)]
    dtype: Literal["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"] = (
        "float32"
    )


class InputSpec(Spec, frozen=True):
    """One sample; integers, such as tokens, range from ``low`` to ``high``."""

    low: int = 0
    high: int = 0


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[model]``: the whole model, and where to cut it."""

    factory: str
    """``package.module:function``; the function returns a ``torch.nn.Module``."""
    cut: str
    """Name of the module whose output becomes the smashed data, as ``named_modules`` gives it."""
    input_shape: Annotated[tuple[_AtLeastOne, ...], msgspec.Meta(min_length=1, max_length=7)]
    """Shape of one sample, without the batch dimension; images are channels, height, width."""
    input_dtype: Literal["float32", "int64"] = "float32"
    """int64 for integers such as tokens."""
    input_range: tuple[int, int] = (0, 0)
    """Least and greatest value of integer inputs."""
    kwargs: dict[str, Any] = {}
    """Passed to the factory."""
    weights: str = ""
    """A ``.safetensors`` or ``.pth`` state dict to start from, relative to the trial file."""
    trainable: Annotated[str, msgspec.Meta(pattern=TRAINABLE)] = "all"
    """Which parameters before the cut are trained: all, none, or those of the last N modules that have any."""

    @property
    def input(self) -> InputSpec:
        """One sample."""
        low, high = self.input_range
        return InputSpec(shape=self.input_shape, dtype=self.input_dtype, low=low, high=high)

    def problems(self) -> list[str]:
        """Values that are each allowed but make no sense together."""
        found: list[str] = []
        low, high = self.input_range
        if ":" not in self.factory:
            found.append(f"model.factory: found {self.factory!r}, allowed: package.module:function")
        if self.input_dtype == "int64" and not 0 <= low < high:
            found.append(
                f"model.input_range: found {low} to {high}, allowed: 0 or more, to something greater, for int64"
            )
        if self.input_dtype == "float32" and (low, high) != (0, 0):
            found.append("model.input_range: allowed only for whole numbers (model.input_dtype int64)")
        return found


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what an exported client computes."""

    name: str
    """Name of the trial that it is for."""
    model: Model
    optimizer: Optimizer
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    classes: tuple[str, ...] = ()
    seed: int = 1
    """Seed of the initial weights, if no file provides them."""
