"""What a service tells systemd: that it is ready, and that it is alive."""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

__all__ = ["Notifier"]

_BEAT_S = 5.0


class Notifier:
    """Talks to systemd, if that started this process; otherwise to nobody (sd_notify(3)).

    Args:
        environment: with ``NOTIFY_SOCKET``, where it listens; an abstract socket begins with an @.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._beaten_at_s = float("-inf")

    def ready(self) -> None:
        """All that this service needs is there, and it is about to begin."""
        self._say("READY=1")

    def status(self, text: str) -> None:
        """A line for `systemctl status`."""
        self._say(
            f"STATUS={' '.join(text.split())[:200]}"
        )  # it may come from a network, and a line of its own would be an order

    def alive(self) -> None:
        """It does what it should; said again after 5 s at the earliest."""
        if time.monotonic() - self._beaten_at_s >= _BEAT_S:
            self._beaten_at_s = time.monotonic()
            self._say("WATCHDOG=1")

    def _say(self, text: str) -> None:
        if not self._address:
            return
        # systemd may be replacing itself; for who stays unheard there is its watchdog.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.connect(self._address)
            connection.send(text.encode())
