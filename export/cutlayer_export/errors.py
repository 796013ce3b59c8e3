"""Errors of an export that are not the user's mistake."""

from cutlayer_core.errors import CutlayerError

__all__ = ["CertificateError"]


class CertificateError(CutlayerError):
    """The exported graphs do not compute what torch computes."""
