"""What board and server agree on; numpy, no torch. Each folder is a room: see ``docs/architecture.md``."""

__version__ = "0.1.0"
