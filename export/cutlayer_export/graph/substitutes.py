"""Functions of torch whose gradients no engine has, written in others before autograd sees them: a table.

Each computes what torch's own does, and so do its gradients, ties included.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from cutlayer_export.graph.as_it_is import AsItIs
from cutlayer_export.graph.complex_pairs import COMPLEX, root
from cutlayer_export.graph.sampling import SAMPLING

__all__ = ["SUBSTITUTES", "substituted"]

aten = torch.ops.aten
_MOST = 256
"""Most entries along an axis that are handled one by one."""


@contextmanager
def substituted(client: nn.Module) -> Iterator[None]:
    """Trace ``client`` with our functions in place of torch's."""
    with ExitStack() as stack:
        for module in client.modules():
            if isinstance(module, _BatchNorm) and module.momentum is None:
                own = module.__dict__.get("forward")
                module.forward = partial(_batch_norm_of_all_batches, module)  # type: ignore[method-assign]
                stack.callback(_restore, module, own)
        stack.enter_context(_Substitutes())
        yield


def _restore(module: nn.Module, forward: Any) -> None:
    del module.forward
    if forward is not None:
        module.forward = forward


class _Substitutes(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return SUBSTITUTES.get(func, func)(*args, **(kwargs or {}))
        except AsItIs:
            return func(*args, **(kwargs or {}))


def _batch_norm_of_all_batches(module: Any, x: Tensor) -> Tensor:
    """BatchNorm with momentum=None: running statistics are means over all batches so far."""
    if not module.training or not module.track_running_stats:
        mean, variance = (None, None) if module.training else (module.running_mean, module.running_var)
        return functional.batch_norm(x, mean, variance, module.weight, module.bias, mean is None, 0.0, module.eps)
    axes = [0, *range(2, x.dim())]
    with torch.no_grad():
        module.num_batches_tracked.add_(1)
        share = 1.0 / module.num_batches_tracked.to(torch.float32)
        for running, found in ((module.running_mean, x.mean(axes)), (module.running_var, x.var(axes))):
            running.copy_(running + share * (found - running))
    return functional.batch_norm(x, None, None, module.weight, module.bias, True, 0.0, module.eps)


def _embedding_bag(
    indices: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    if offsets is not None or max_norm is not None or indices.dim() != 2 or padding_idx is not None:
        raise AsItIs
    rows = functional.embedding(indices, weight, scale_grad_by_freq=scale_grad_by_freq)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    return {"sum": lambda: rows.sum(1), "mean": lambda: rows.mean(1), "max": lambda: rows.max(1)[0]}[mode]()


def _cdist(a: Tensor, b: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    """Distances between all pairs of rows. The gradient of a Euclidean distance of zero is zero."""
    apart = a.unsqueeze(-2) - b.unsqueeze(-3)
    if p == 1:
        return apart.abs().sum(-1)
    if p != 2:
        raise AsItIs
    return root((apart * apart).sum(-1))


def _bilinear(a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    products = torch.einsum("...i,kij,...j->...k", a, weight, b)
    return products if bias is None else products + bias


def _one_by_one(x: Tensor, axis: int) -> list[Tensor]:
    if not isinstance(x.shape[axis], int) or x.shape[axis] > _MOST:
        raise AsItIs
    return list(x.unbind(axis))


def _prod(x: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    if dim is None or dtype is not None or not x.is_floating_point():  # else torch gives another type
        raise AsItIs
    found = reduce(torch.mul, _one_by_one(x, dim))
    return found.unsqueeze(dim) if keepdim else found


def _cumulative(join: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def rule(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
        if dtype is not None or not x.is_floating_point():
            raise AsItIs
        first, *others = _one_by_one(x, dim)
        found = [first]
        for each in others:
            found.append(join(found[-1], each))
        return torch.stack(found, dim)

    return rule


_cumprod = _cumulative(torch.mul)


def _extreme_so_far(beats: Callable[[Tensor, Tensor], Tensor], result: Any) -> Callable[..., Any]:
    """The greatest or least entry so far, and its place; of equal ones the last counts, as in torch."""

    def rule(x: Tensor, dim: int) -> Any:
        values, places = list[Tensor](), list[Tensor]()
        for at, each in enumerate(_one_by_one(x, dim)):
            place = torch.full_like(each, at, dtype=torch.int64)
            new = beats(each, values[-1]) if values else None
            values.append(each if new is None else torch.where(new, each, values[-1]))
            places.append(place if new is None else torch.where(new, place, places[-1]))
        return result((torch.stack(values, dim), torch.stack(places, dim)))

    return rule


_cummax = _extreme_so_far(torch.ge, torch.return_types.cummax)
_cummin = _extreme_so_far(torch.le, torch.return_types.cummin)


def _kth_of(x: Tensor, k: int, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    value, place = (each.select(dim, k - 1) for each in torch.sort(x, dim))
    return (value.unsqueeze(dim), place.unsqueeze(dim)) if keepdim else (value, place)


def _kth_value(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    return torch.return_types.kthvalue(_kth_of(x, k, dim, keepdim))


def _median(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    if dim is None:
        raise AsItIs
    return torch.return_types.median(_kth_of(x, (int(x.shape[dim]) + 1) // 2, dim, keepdim))


def _local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Krizhevsky et al., 2012, section 3.3: squares are averaged over ``size`` neighbouring channels."""
    channels = int(x.shape[1])
    around = [0, 0] * (x.dim() - 2) + [size // 2, (size - 1) // 2]
    squares = functional.pad(x * x, around)
    total = reduce(torch.add, [squares.narrow(1, at, channels) for at in range(size)])
    return x / torch.pow(total * (alpha / size) + k, beta)


def _fake_quantize(x: Tensor, scale: Any, zero_point: Any, low: int, high: int) -> Tensor:
    """Rounded to a grid, with the gradient passed on where the grid reaches (Jacob et al., arXiv 1712.05877)."""
    with torch.no_grad():
        place = torch.round(x / scale) + zero_point
        inside = ((place >= low) & (place <= high)).to(x.dtype)
        rounded = (torch.clamp(place, low, high) - zero_point) * scale
        rest = rounded - x * inside
    quantized: Tensor = x * inside + rest
    return quantized


def _fake_quantize_channels(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int, low: int, high: int) -> Tensor:
    shape = [-1 if at == axis % x.dim() else 1 for at in range(x.dim())]
    return _fake_quantize(x, scale.view(shape), zero_point.to(x.dtype).view(shape), low, high)


def _adaptive_max_pool(x: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Each entry is the greatest of its region; regions of different sizes are taken one by one."""
    if return_indices:
        raise AsItIs
    wanted = (output_size,) * 2 if isinstance(output_size, int) else tuple(output_size)
    full = tuple(int(each) for each in x.shape[-2:])
    size = [each if each is not None else whole for each, whole in zip(wanted, full, strict=True)]
    if not any(whole % out for whole, out in zip(full, size, strict=True)):
        return aten.adaptive_max_pool2d(x, size)[0]
    rows, columns = (
        [(at * whole // out, -(-(at + 1) * whole // out)) for at in range(out)]
        for whole, out in zip(full, size, strict=True)
    )
    regions = [x[..., top:bottom, left:right].flatten(-2).max(-1)[0] for top, bottom in rows for left, right in columns]
    return torch.unflatten(torch.stack(regions, -1), -1, size)


def _rrelu(
    x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    if training:
        return functional.rrelu(x, lower, upper, training=True)
    return functional.leaky_relu(x, (lower + upper) / 2)


SUBSTITUTES: dict[Any, Callable[..., Any]] = {
    **COMPLEX,
    **SAMPLING,
    functional.bilinear: _bilinear,
    functional.rrelu: _rrelu,
    torch.logcumsumexp: _cumulative(torch.logaddexp),
    Tensor.logcumsumexp: _cumulative(torch.logaddexp),
    functional.embedding_bag: _embedding_bag,
    torch.cdist: _cdist,
    aten.cdist.default: _cdist,
    torch.prod: _prod,
    Tensor.prod: _prod,
    aten.prod.dim_int: _prod,
    torch.cumprod: _cumprod,
    Tensor.cumprod: _cumprod,
    aten.cumprod.default: _cumprod,
    **dict.fromkeys((torch.cummax, Tensor.cummax, aten.cummax.default), _cummax),
    **dict.fromkeys((torch.cummin, Tensor.cummin, aten.cummin.default), _cummin),
    torch.kthvalue: _kth_value,
    Tensor.kthvalue: _kth_value,
    aten.kthvalue.default: _kth_value,
    torch.median: _median,
    Tensor.median: _median,
    aten.median.dim: _median,
    functional.local_response_norm: _local_response_norm,
    torch.fake_quantize_per_tensor_affine: _fake_quantize,
    aten.fake_quantize_per_tensor_affine.default: _fake_quantize,
    torch.fake_quantize_per_channel_affine: _fake_quantize_channels,
    aten.fake_quantize_per_channel_affine.default: _fake_quantize_channels,
    functional.adaptive_max_pool2d: _adaptive_max_pool,
}  # fmt: skip
"""What is computed instead, by torch's function, and by the operation that it becomes where a model was traced."""
