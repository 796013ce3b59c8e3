"""How a device's program ends: soon after it is asked to, whatever it is doing."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cutlayer_core.console import INTERRUPTED

__all__ = ["end_within"]


@contextmanager
def end_within(seconds: float) -> Iterator[None]:
    """Exit at most ``seconds`` after SIGTERM, SIGINT or SIGHUP.

    Python handles a signal between two of its own instructions, so a long computation in an engine would delay it. What
    a device needs to resume is on its disk at any moment, so it may as well be cut off; a thread that the signal wakes
    does that.
    """
    hear, wake = socket.socketpair()
    wake.setblocking(False)
    before = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)

    def wait() -> None:
        with hear:
            while number := hear.recv(1):
                if number[0] in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    time.sleep(seconds)
                    os._exit(INTERRUPTED)

    threading.Thread(target=wait, name="ending", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        wake.close()
