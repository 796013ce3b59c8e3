"""Codecs: which bits of a tensor travel. One codec, one file, one class, one id."""

from cutlayer.codecs.base import Encoded, Payload
from cutlayer.codecs.fp8 import Fp8
from cutlayer.codecs.fp16 import Fp16
from cutlayer.codecs.raw import Raw

__all__ = ["Codec", "Encoded", "Fp8", "Fp16", "Payload", "Raw"]

Codec = Raw | Fp16 | Fp8
"""The table of codecs: the types that ``[codec.up]`` and ``[codec.down]`` in a trial file may name by ``id``."""
