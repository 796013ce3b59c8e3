"""Where a model is cut: the client-side and the server-side half of any module, and the models to try it on.

`cutlayer_export` and `cutlayer_server` both stand on this package and never on each other.
"""

from cutlayer_cut.cut import Halves, cut
from cutlayer_cut.model import build_model, client_of, cut_trial_model

__all__ = ["Halves", "build_model", "client_of", "cut", "cut_trial_model"]
