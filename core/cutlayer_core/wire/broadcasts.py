"""Messages from the server to all devices, over one transport: published once, counted, and taken by number."""

import logging

from cutlayer_core.codecs import Payload
from cutlayer_core.errors import ChunkError
from cutlayer_core.wire import topics
from cutlayer_core.wire.counted_transport import CountedTransport
from cutlayer_core.wire.messages import Header, Message
from cutlayer_core.wire.presence import Process
from cutlayer_core.wire.session import Audience, Speaker
from cutlayer_core.wire.transports import Packet

__all__ = ["Broadcasts"]

_log = logging.getLogger(__name__)


class Broadcasts:
    """Both sides of the topic that all devices read; a process uses one of them.

    Args:
        own: this process.
        transport: connected.
    """

    def __init__(self, own: Process, transport: CountedTransport) -> None:
        self._transport, self._topic = transport, topics.gradient(own.trial)
        self._speaker = Speaker(own.epoch, transport.largest_chunk(self._topic))
        self._audience: Audience | None = None

    def publish(self, header: Header, payload: Payload) -> int:
        """Publish a message to all devices, once; returns the number by which each device is told of it."""
        number, frames = self._speaker.frames(Message(header, payload))
        for frame in frames:
            self._transport.publish(topics.SERVER, self._topic, frame)
        return number

    def listen(self, server_epoch: int) -> None:
        """Start taking messages to all devices from this process of the server."""
        self._audience = Audience(server_epoch)
        self._transport.subscribe(self._topic)

    def take(self, number: int) -> Message | None:
        """The message to all with this number, if it has arrived. Raises `MessageError` if it cannot be read."""
        assert self._audience is not None, "only who listens is told of one"
        return self._audience.take(number)

    def overhear(self, packet: Packet) -> None:
        """Take a frame of a message to all; a damaged one is dropped, and its message will be asked for."""
        if self._audience is None:
            return
        self._transport.count_received(topics.SERVER, packet)
        try:
            self._audience.receive(packet.payload)
        except ChunkError as error:
            _log.warning("dropped a frame to all devices: %s", error)
