"""``cutlayer demo``: the user's four commands, run for them on one machine."""

from cutlayer.demo.demo import run_demo

__all__ = ["run_demo"]
