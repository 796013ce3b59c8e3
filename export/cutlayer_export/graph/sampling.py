"""Images sampled at computed places: a table of functions of torch, written in others before autograd sees them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cutlayer_export.graph.as_it_is import AsItIs

__all__ = ["SAMPLING"]


def _affine_grid(theta: Tensor, size: Sequence[Any], align_corners: bool | None = None) -> Tensor:
    """Sampling places of an affine map (Jaderberg et al., arXiv 1506.02025, equation 1), (B, H, W, 2)."""
    if len(size) != 4:
        raise AsItIs
    height, width = int(size[2]), int(size[3])
    rows, columns = (_centres(number, bool(align_corners)) for number in (height, width))
    places = [columns.expand(height, width), rows.unsqueeze(1).expand(height, width), torch.ones(height, width)]
    base = torch.stack(places, -1).reshape(height * width, 3)
    return torch.unflatten(base @ theta.transpose(1, 2), 1, (height, width))


def _centres(number: int, corners: bool) -> Tensor:
    edge = 1.0 if corners else 1.0 - 1.0 / number
    return torch.linspace(-edge, edge, number)


def _grid_sample(
    x: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Tensor:
    """``x``, (B, C, H, W), at the places of ``grid``, (B, rows, columns, 2): the weighted mean of the four pixels around.

    Places run from -1 to 1, with x first, as `torch.nn.functional.grid_sample` has them.
    """
    if mode != "bilinear" or padding_mode not in ("zeros", "border") or x.dim() != 4:
        raise AsItIs
    width, height = int(x.shape[3]), int(x.shape[2])
    flat = x.flatten(2)
    places = [_pixels(grid[..., at], size, padding_mode, bool(align_corners)) for at, size in ((0, width), (1, height))]
    total = None
    for column, column_weight in _neighbours(places[0], width):
        for row, row_weight in _neighbours(places[1], height):
            at = (row * width + column).flatten(1).unsqueeze(1).expand(-1, int(x.shape[1]), -1)
            part = torch.gather(flat, 2, at) * (column_weight * row_weight).flatten(1).unsqueeze(1)
            total = part if total is None else total + part
    assert total is not None
    return torch.unflatten(total, 2, (int(grid.shape[1]), int(grid.shape[2])))


def _pixels(places: Tensor, size: int, padding_mode: str, corners: bool) -> Tensor:
    """Places from -1 to 1 as places between pixels, counted from 0."""
    found = (places + 1.0) * ((size - 1) / 2) if corners else (places + 1.0) * (size / 2) - 0.5
    return found.clamp(0.0, size - 1.0) if padding_mode == "border" else found


def _neighbours(place: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The pixels before and after a place, and their weights; pixels outside weigh nothing."""
    first = torch.floor(place.detach())
    found = []
    for at, weight in ((first, first + 1.0 - place), (first + 1.0, place - first)):
        inside = ((at >= 0) & (at <= size - 1)).to(place.dtype)
        found.append((at.clamp(0, size - 1).to(torch.int64), weight * inside))
    return found


SAMPLING: dict[Any, Callable[..., Any]] = {
    functional.affine_grid: _affine_grid,
    functional.grid_sample: _grid_sample,
}
