"""Checks of this machine: one file a kind, each without importing an engine, torch, or anything else that takes seconds."""

from pathlib import Path

from cutlayer_profiles.checks.base import Check
from cutlayer_profiles.checks.broker import BrokerAddress, broker_to_try, check_broker
from cutlayer_profiles.checks.clock import check_clock
from cutlayer_profiles.checks.hardware import check_cores, check_disk, check_memory, check_system
from cutlayer_profiles.checks.software import check_engines, check_packages, check_python
from cutlayer_profiles.meters import Root

__all__ = ["BrokerAddress", "Check", "broker_to_try", "check_machine"]


def check_machine(root: Root, broker: BrokerAddress, folder: Path) -> list[Check]:
    """Everything but meters. ``folder`` is where runs and states would go. Raises `UserError` for the broker's certificates."""
    return [
        check_system(root),
        check_cores(),
        check_memory(root),
        check_disk(folder),
        check_clock(root),
        check_broker(broker),
        check_python(),
        *check_engines(),
        *check_packages(),
    ]
