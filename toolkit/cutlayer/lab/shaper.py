"""A TCP proxy that is as slow and as unreliable as a link: no root, no kernel modules."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Coroutine
from typing import Any

from cutlayer.lab.air import Air, Way
from cutlayer_core.record.link import Link

__all__ = ["Shaper"]

_SEGMENT_BYTES = 4 * 1460
_BUFFER_BYTES = 65_536
"""Size of socket buffers; small, so that a fast sender is held up as by a real link."""
_DRIVER_QUEUE_S = 0.03
"""How much a driver queues for the air. Without it, every timer that oversleeps would leave the link idle."""
_GIVE_UP_S = 15.0
"""After this long without acknowledgement, the connections of both ends break: our TCP_USER_TIMEOUT."""


class Shaper:
    """Carries connections from its own port to a broker over one link.

    It terminates TCP on both sides, so the effect of loss on TCP is part of the profile, as stalls. It listens at once,
    and carries from `start` on, in its own thread, so fork processes before that.

    Args:
        link: its properties; all connections share it, like those of one device.
        host, port: the broker.
        seed: equal seeds give equal stalls.
    """

    def __init__(self, link: Link, host: str, port: int, seed: int) -> None:
        self._air, self._link, self._target = Air(link, seed), link, (host, port)
        self._ends: set[asyncio.StreamWriter] = set()
        self._ways: set[asyncio.Future[None]] = set()
        self._began = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        """The port on which it listens, on the loopback interface."""

    def start(self) -> None:
        """Start carrying; stalls and outages count from here."""
        self._began = time.monotonic()
        self._thread.start()
        self._server: asyncio.Server = self._call(asyncio.start_server(self._accept, sock=self._socket))
        self._outages = asyncio.run_coroutine_threadsafe(self._break_in_outages(), self._loop)

    def close(self) -> None:
        """Break all connections and end."""
        if self._began:
            self._outages.cancel()
            self._call(self._stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._socket.close()
        self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10.0)

    async def _stop(self) -> None:
        self._server.close()
        for way in self._ways:  # this also ends the tasks that accepted them
            way.cancel()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _break(self) -> None:
        for end in self._ends:
            end.transport.abort()

    async def _break_in_outages(self) -> None:
        for begin, length in sorted(self._link.outages_s):
            if length > _GIVE_UP_S:
                await asyncio.sleep(begin + _GIVE_UP_S - self._now())
                self._break()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either end closes it."""
        try:
            if self._air.outage_end(self._now()) > self._now():
                raise ConnectionRefusedError
            there, back = await asyncio.open_connection(*self._target, limit=_BUFFER_BYTES)
        except OSError:
            writer.transport.abort()
            return
        for end in (writer, back):
            _tune(end)
            self._ends.add(end)
        await asyncio.sleep(2 * self._link.delay_ms / 1e3)  # TCP's handshake
        ways = {
            asyncio.ensure_future(each)
            for each in (self._carry("up", reader, back), self._carry("down", there, writer))
        }
        self._ways |= ways
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._ways -= ways
            for way in ways:
                way.cancel()
            for end in (writer, back):
                self._ends.discard(end)
                end.transport.abort()

    async def _carry(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one direction, until its sender closes it and everything has arrived."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivery = asyncio.ensure_future(self._deliver(under_way, writer))
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(_SEGMENT_BYTES):
                    left, arrives = self._air.send(way, len(data), self._now())
                    under_way.put_nowait((arrives, data))
                    await asyncio.sleep(max(left - self._now() - _DRIVER_QUEUE_S, 0.0))
            under_way.put_nowait((0.0, b""))
            await delivery
        finally:
            delivery.cancel()

    async def _deliver(self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while (arrival := await under_way.get())[1]:
                await asyncio.sleep(max(arrival[0] - self._now(), 0.0))
                writer.write(arrival[1])
                await writer.drain()


def _tune(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        connection.setsockopt(socket.SOL_SOCKET, buffer, _BUFFER_BYTES)
    writer.transport.set_write_buffer_limits(_BUFFER_BYTES)
