"""Codecs: which bits of a tensor travel. One codec, one file, one class, one id."""

from cutlayer.codecs.base import NOTHING, Arrays, Encoded, Payload
from cutlayer.codecs.fp8 import Fp8
from cutlayer.codecs.fp16 import Fp16
from cutlayer.codecs.fwq import Fwq
from cutlayer.codecs.intq import IntQ
from cutlayer.codecs.pair import Codec, Codecs, Received, Sent, Tensor
from cutlayer.codecs.pq import ProductQuantizer
from cutlayer.codecs.raw import Raw
from cutlayer.codecs.splitfc import SplitFC
from cutlayer.codecs.topk import TopK

__all__ = [
    "NOTHING",
    "Arrays",
    "Codec",
    "Codecs",
    "Encoded",
    "Fp8",
    "Fp16",
    "Fwq",
    "IntQ",
    "Payload",
    "ProductQuantizer",
    "Raw",
    "Received",
    "Sent",
    "SplitFC",
    "Tensor",
    "TopK",
]
