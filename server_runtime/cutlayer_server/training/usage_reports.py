"""What devices report to have used outside their passes: before the first one, and after the last."""

import logging
import time
from collections.abc import Sequence

from cutlayer_core.errors import CutlayerError, PeerLost
from cutlayer_core.record.events import Settled
from cutlayer_core.record.record import Record
from cutlayer_core.wire.messages import Message, Settle
from cutlayer_core.wire.messages import Settled as Answer
from cutlayer_server.fleet.fleet import Fleet

__all__ = ["ask", "note", "settle_at_the_end"]

_log = logging.getLogger(__name__)


def ask(fleet: Fleet, devices: Sequence[str], idle_s: float) -> float:
    """Have devices between two passes report their usage and idle for ``idle_s``; returns when that will be over."""
    for device in devices:
        fleet.say(device, Settle(idle_s=idle_s))
    return time.monotonic() + idle_s


def note(record: Record, device: str, message: Message) -> None:
    """Write a device's answer into the record."""
    answer = message.header
    assert isinstance(answer, Answer), "the session lets nothing else through"
    usage, idle = (each and each.trusted() for each in (answer.usage, answer.idle))
    record.write(Settled(time_s=record.now(), device=device, usage=usage, idle=idle))


def settle_at_the_end(fleet: Fleet, record: Record, idle_s: float) -> None:
    """Record what each device still there used since its last report; training does not fail over a usage report."""
    devices = fleet.roll.online
    rested = ask(fleet, devices, idle_s)
    for device in devices:
        for _ in devices:  # another device's fault may come up while we listen to this one
            try:
                note(record, device, fleet.hear(device, rested))
                break
            except CutlayerError as error:
                _log.warning("while %s was to say what it spent last: %s", device, error)
                if isinstance(error, PeerLost) or getattr(error, "device", "") == device:
                    break
