"""Meters, one file each: pure readers of what a board's files, commands and smart plugs say."""

from collections.abc import Callable

from cutlayer_profiles.meters import battery, ina, jetson, plugs, pmic, rapl
from cutlayer_profiles.meters.base import Accuracy, Finding, Meter, Source
from cutlayer_profiles.meters.root import Root
from cutlayer_profiles.meters.settings import Settings, read_settings

__all__ = ["PROBES", "Accuracy", "Finding", "Meter", "Root", "Settings", "Source", "find_meters", "read_settings"]

PROBES: tuple[Callable[[Root, Settings], list[Finding]], ...] = (
    plugs.probe,
    ina.probe,
    jetson.probe,
    pmic.probe,
    battery.probe,
    rapl.probe,
)
"""First a plug that the user has named, then the others in order of how much of a board they see."""


def find_meters(root: Root, settings: Settings) -> list[Finding]:
    """The findings of every probe; the first meter found is the one to take."""
    return [finding for probe in PROBES for finding in probe(root, settings)]
