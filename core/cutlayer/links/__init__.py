"""Links as they are in the field, for trials in the lab: profiles, and a shaper that makes a TCP connection like one."""

from cutlayer.links.air import Air
from cutlayer.links.profile import LINKS, SERVER, Link, read_links
from cutlayer.links.shaper import Shaper

__all__ = ["LINKS", "SERVER", "Air", "Link", "Shaper", "read_links"]
