"""Every place where a model can be cut, with what a cut there costs the board and the network."""

import math

import msgspec
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from cutlayer_core.codecs import Fp8
from cutlayer_cut.cut import Cutter
from cutlayer_cut.modes import mode

__all__ = ["CutCosts", "list_cuts"]


class CutCosts(msgspec.Struct, frozen=True, kw_only=True):
    """The costs of one cut, all per sample. A multiplication with its addition counts as two operations (FLOP)."""

    cut: str
    smashed_shape: tuple[int, ...]
    raw_bytes: int
    """Smashed data as float32."""
    fp8_bytes: int
    client_parameters: int
    forward_mflop: float
    """Of the client, counting convolutions and matrix products."""
    backward_mflop: float


def list_cuts(model: nn.Module, example: Tensor) -> list[CutCosts]:
    """All cuts that a single tensor crosses, in the order of their outputs; costs are counted on fake tensors."""
    return [_costs(name, halves.client, example) for name, halves in Cutter(model, example).possible().items()]


def _costs(name: str, client: nn.Module, example: Tensor) -> CutCosts:
    params = [each for each in client.parameters() if each.requires_grad]
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, mode(client, training=True):
        x = fake.from_tensor(example)
        with FlopCounterMode(display=False) as forward:
            z = client(x)
        with FlopCounterMode(display=False) as backward:
            if params and z.requires_grad:
                torch.autograd.grad(z.sum(), params, allow_unused=True)
    shape, share = tuple(z.shape[1:]), 1e-6 / len(example)
    return CutCosts(
        cut=name,
        smashed_shape=shape,
        raw_bytes=4 * math.prod(shape),
        fp8_bytes=Fp8().bits((1, *shape)) // 8,
        client_parameters=sum(each.numel() for each in client.parameters()),
        forward_mflop=round(forward.get_total_flops() * share, 3),
        backward_mflop=round(backward.get_total_flops() * share, 3),
    )
