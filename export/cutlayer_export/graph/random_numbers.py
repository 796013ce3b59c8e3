"""Random numbers by seed as operators, which every runtime computes from whole numbers."""

import math

import torch
from torch import Tensor
from torch.library import custom_op

__all__ = ["bernoulli", "uniform"]


@custom_op("cutlayer::bernoulli", mutates_args=())
def bernoulli(seed: Tensor, like: Tensor, probability: float, stream: int) -> Tensor:
    """Ones with ``probability``, else zeros, in the shape of ``like``; equal seeds and streams give equal draws.

    Counter-based, so that any runtime draws the same: entry i is the 32-bit finalizer of MurmurHash3 (Appleby) of
    ``i * 0x9E3779B1 + key``, with a key made of ``seed`` (a whole number from 0 to 2**31 - 1) and ``stream``.
    """
    return (_bits(seed, like, stream) >> 1 < round(probability * 2**31)).to(like.dtype)


@bernoulli.register_fake
def _(seed: Tensor, like: Tensor, probability: float, stream: int) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


@custom_op("cutlayer::uniform", mutates_args=())
def uniform(seed: Tensor, like: Tensor, stream: int) -> Tensor:
    """Numbers between 0 and 1, both excluded, in the shape of ``like``; drawn as in `bernoulli`.

    Odd multiples of 2**-24, which float32 holds exactly, so that every runtime has the same bits.
    """
    return ((_bits(seed, like, stream) >> 9) * 2 + 1).to(like.dtype) * 2**-24


@uniform.register_fake
def _(seed: Tensor, like: Tensor, stream: int) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _bits(seed: Tensor, like: Tensor, stream: int) -> Tensor:
    """32 random bits for each entry of ``like``, as int64."""
    key = _mixed(_mixed(seed.to(torch.int64) + stream * 0x85EBCA77) + 0x27D4EB2F)
    counter = torch.arange(math.prod(like.shape), device=like.device).view(like.shape)
    return _mixed(counter * 0x9E3779B1 + key)


def _mixed(bits: Tensor) -> Tensor:
    """MurmurHash3's finalizer of 32-bit numbers, in 64-bit arithmetic."""
    bits = bits & 0xFFFFFFFF
    bits = (bits ^ bits >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    bits = (bits ^ bits >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return bits ^ bits >> 16
