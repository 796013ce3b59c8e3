"""What a check of this machine says."""

from typing import Literal, NamedTuple

__all__ = ["Check", "Status"]

Status = Literal["ok", "absent", "warning", "failed"]


class Check(NamedTuple):
    """What was found of one thing that a trial needs, and what the user can do about it.

    Attributes:
        what: was looked at.
        status: absent: it is not here, and only some uses need it; warning: it works, and trouble is ahead; failed: no trial
            can run from here before it is mended.
        found: what there is.
        advice: what to do; empty if nothing is.
    """

    what: str
    status: Status
    found: str
    advice: str = ""
