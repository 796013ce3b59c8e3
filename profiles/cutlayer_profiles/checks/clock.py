"""The clock. Boards have no battery for it: until the network sets it, it shows the past, in which no certificate is valid yet."""

import time
from datetime import datetime, timezone

from cutlayer_profiles.checks.base import Check
from cutlayer_profiles.meters import Root

__all__ = ["RELEASE_YEAR", "check_clock"]

RELEASE_YEAR = 2026
"""Of this version, so no clock can be right that shows an earlier one."""
_WHY = "with a wrong clock TLS certificates are not valid"


def check_clock(root: Root, now_s: float | None = None) -> Check:
    """Whether it can be right, and whether something keeps it right. ``now_s`` is since 1970, by default now."""
    now = datetime.fromtimestamp(time.time() if now_s is None else now_s, timezone.utc)
    shown = f"{now:%Y-%m-%d %H:%M} UTC"
    if now.year < RELEASE_YEAR:
        return Check("clock", "warning", f"{shown}, which is wrong", f"set it, best by NTP: {_WHY}")
    synchronised = _is_synchronised(root)
    if synchronised is None:
        return Check("clock", "ok", f"{shown}, unknown whether synchronised")
    if synchronised:
        return Check("clock", "ok", f"{shown}, synchronised")
    return Check("clock", "warning", f"{shown}, not synchronised", f"`sudo timedatectl set-ntp true`: {_WHY}")


def _is_synchronised(root: Root) -> bool | None:
    """As systemd says; None without systemd."""
    if root.exists("run/systemd/timesync/synchronized"):
        return True
    try:
        return root.run("timedatectl", "show", "-p", "NTPSynchronized").strip() == "NTPSynchronized=yes"
    except OSError:
        return None
