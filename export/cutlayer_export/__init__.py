"""Export: the client-side half of a cut model as a bundle that a stock inference runtime trains."""

from cutlayer_export.export import export_bundle

__all__ = ["export_bundle"]
