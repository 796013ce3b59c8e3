"""A board's link to the broker, that can fall silent or break."""

import asyncio
import threading


class Relay:
    """Forwards TCP connections from a port of its own to a target, in a thread of its own."""

    def __init__(self, host, port):
        self._target, self._writers = (host, port), set()
        self._loop, self._open = asyncio.new_event_loop(), asyncio.Event()
        self._open.set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]

    def silence(self):
        """Nothing passes from now on, and nobody is told: a half-open link."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def restore(self):
        """What waited goes on."""
        self._loop.call_soon_threadsafe(self._open.set)

    def reset(self):
        """Every connection breaks."""
        self._loop.call_soon_threadsafe(self._abort)

    def close(self):
        self.restore()
        self.reset()
        self._loop.call_soon_threadsafe(self._server.close)
        self._call(asyncio.sleep(0.1))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def _abort(self):
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader, writer):
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, back}
        self._writers |= ends
        await asyncio.gather(self._forward(reader, back), self._forward(there, writer))
        self._writers -= ends

    async def _forward(self, reader, writer):
        try:
            while data := await reader.read(65536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()
