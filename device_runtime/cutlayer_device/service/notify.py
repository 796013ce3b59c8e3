"""How a service tells systemd that it is ready, and that it is alive."""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

__all__ = ["Notifier"]

_BEAT_S = 5.0


class Notifier:
    """Talks to systemd (sd_notify(3)) if that started this process, otherwise to nobody.

    Args:
        environment: its ``NOTIFY_SOCKET`` is where systemd listens; the name of an abstract socket begins with an @.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._beaten_at_s = float("-inf")

    def ready(self) -> None:
        """Say that everything this service needs is there, and that it is about to begin."""
        self._say("READY=1")

    def status(self, text: str) -> None:
        """Set the status line of `systemctl status`."""
        self._say(
            f"STATUS={' '.join(text.split())[:200]}"
        )  # it may come from a network, and a second line would be a command

    def alive(self) -> None:
        """Say that the service is alive; at most once in 5 s."""
        if time.monotonic() - self._beaten_at_s >= _BEAT_S:
            self._beaten_at_s = time.monotonic()
            self._say("WATCHDOG=1")

    def _say(self, text: str) -> None:
        if not self._address:
            return
        # systemd may be re-executing itself; its watchdog deals with a service that stays unheard.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.connect(self._address)
            connection.send(text.encode())
