"""Export: the client-side half of a cut model as a bundle that a stock inference runtime trains."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutlayer_export.export import export_bundle

__all__ = ["export_bundle"]


def __getattr__(name: str) -> Any:
    """Import `export_bundle`, and torch with it, when it is used: what was exported before is found without."""
    if name not in __all__:
        raise AttributeError(f"module 'cutlayer_export' has no attribute {name!r}")
    from cutlayer_export.export import export_bundle

    return export_bundle
