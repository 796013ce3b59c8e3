"""Codecs: which bits of a tensor travel. One codec, one file, one class, one id."""

from cutlayer_core.codecs.base import NOTHING, Arrays, Encoded, Payload
from cutlayer_core.codecs.fp8 import Fp8
from cutlayer_core.codecs.fp16 import Fp16
from cutlayer_core.codecs.fwq import Fwq
from cutlayer_core.codecs.intq import IntQ
from cutlayer_core.codecs.pair import Codec, Codecs, Received, Sent, Tensor
from cutlayer_core.codecs.pq import ProductQuantizer
from cutlayer_core.codecs.raw import Raw
from cutlayer_core.codecs.splitfc import SplitFC
from cutlayer_core.codecs.topk import TopK

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
