"""cutlayer: split learning across boards and a server. Importing it is cheap; torch is imported only when something needs it."""

from cutlayer_core import __version__

__all__ = ["__version__"]
