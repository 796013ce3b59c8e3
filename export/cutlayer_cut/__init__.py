"""Cuts any module into a client-side and a server-side half, and has models to try it on.

`cutlayer_export` and `cutlayer_server` both build on this package, and never on each other.
"""

from cutlayer_cut.cut import Cutter, cut
from cutlayer_cut.halves import Halves
from cutlayer_cut.model import build_model, check_input, client_of, cut_model, example_batch, examples
from cutlayer_cut.modes import mode
from cutlayer_cut.module_calls import calls_through
from cutlayer_cut.paths import where_paths_part
from cutlayer_cut.state import ClientState, client_state, training
from cutlayer_cut.table import CutCosts, list_cuts
from cutlayer_cut.torch_optimizer import clip, torch_optimizer
from cutlayer_cut.tracing import tracing
from cutlayer_cut.up_to_cut import UpToCut, up_to_cut

__all__ = [
    "ClientState",
    "CutCosts",
    "Cutter",
    "Halves",
    "UpToCut",
    "build_model",
    "calls_through",
    "check_input",
    "client_of",
    "client_state",
    "clip",
    "cut",
    "cut_model",
    "example_batch",
    "examples",
    "list_cuts",
    "mode",
    "torch_optimizer",
    "tracing",
    "training",
    "up_to_cut",
    "where_paths_part",
]
