"""cutlayer: split learning across boards and a server.

The names in ``__all__`` are public. Each is imported when it is first used, so that ``import cutlayer`` is cheap and
does not need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cutlayer_core import __version__

if TYPE_CHECKING:
    from cutlayer_core.bundles.bundle import Bundle, read_bundle
    from cutlayer_core.errors import CutlayerError, UserError
    from cutlayer_core.record.record import Run, read_run
    from cutlayer_core.trial.trial import Trial, read_trial
    from cutlayer_cut import cut_model
    from cutlayer_export import export_bundle

__all__ = [
    "Bundle",
    "CutlayerError",
    "Run",
    "Trial",
    "UserError",
    "__version__",
    "cut_model",
    "export_bundle",
    "read_bundle",
    "read_run",
    "read_trial",
]

_WHERE = {
    "Bundle": "cutlayer_core.bundles.bundle",
    "CutlayerError": "cutlayer_core.errors",
    "Run": "cutlayer_core.record.record",
    "Trial": "cutlayer_core.trial.trial",
    "UserError": "cutlayer_core.errors",
    "cut_model": "cutlayer_cut",
    "export_bundle": "cutlayer_export",
    "read_bundle": "cutlayer_core.bundles.bundle",
    "read_run": "cutlayer_core.record.record",
    "read_trial": "cutlayer_core.trial.trial",
}


def __getattr__(name: str) -> Any:
    """Import a public name from where it is defined."""
    if name not in _WHERE:
        raise AttributeError(f"module 'cutlayer' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
