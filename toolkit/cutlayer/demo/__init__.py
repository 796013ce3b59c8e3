"""``cutlayer demo``: the user's four commands, run for them on one machine."""

from cutlayer.demo.demo import prepare, run_demo

__all__ = ["prepare", "run_demo"]
