"""MQTT over TCP with paho, tuned for tensors.

MQTT 3.1.1 is spoken, which every broker understands; nothing here needs more. Two socket options matter:
``TCP_NODELAY``, without which Nagle's algorithm and delayed acknowledgements make a round trip 44 ms instead of
0.4 ms, and ``TCP_USER_TIMEOUT``, without which a half-open connection is noticed only after twice the keep-alive.
"""

import logging
import queue
import socket
import ssl
import time
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from cutlayer.errors import TransportError
from cutlayer.transports.base import LastWill, Packet, publish_bytes
from cutlayer.transports.tls import check_broker, refusal_of

__all__ = ["MqttTransport"]

_KEEP_ALIVE_S = 20
"""480 kB of chunks in flight fit into it down to 200 kbit/s; a message that does not fit would never get through."""
_USER_TIMEOUT_MS = 15_000
_MAX_PACKET_BYTES = 1 << 18
"""Twice the longest frame of ours; what is larger is not for us and is dropped."""
_MAX_WAITING = 256
"""Packets that may wait to be taken; those beyond are dropped, as QoS 0 allows, so a flood fills no memory."""
_BIRTHS, _MAX_BIRTHS = ("/state", "/control"), 4096
"""The same for births and wills, which nobody sends again."""
_log = logging.getLogger(__name__)


class MqttTransport:
    """A `Transport` over one broker connection, which paho's thread keeps up and replaces when it breaks.

    Args:
        host, port: the broker.
        client_id: unique at the broker; a second process with the same one throws the first out.
        will: what the broker publishes if this process vanishes.
        connect_timeout_s: how long to wait for the first connection.
        tls: from `load_tls`; without it everything travels in the clear.

    Raises:
        TransportError: no broker answered in time, or it refused; the text says which.
    """

    def __init__(
        self,
        host: str,
        port: int,
        client_id: str,
        will: LastWill | None = None,
        connect_timeout_s: float = 10.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._inbox: queue.SimpleQueue[Packet] = queue.SimpleQueue()
        self._filters: list[str] = []
        self._retained: dict[str, bytes] = {}
        self._connections = 0
        self._refusal = ""
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv311)
        self._client.on_socket_open = _tune_socket
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._client.on_subscribe = self._on_subscribe
        self._client.reconnect_delay_set(min_delay=1, max_delay=8)
        if will is not None:
            self._client.will_set(will.topic, will.payload, qos=1, retain=True)
        self._address, self._tls = (host, port), tls
        if tls is not None:
            self._client.tls_set_context(tls)
        self._connect(host, port, connect_timeout_s)

    def subscribe(self, topic_filter: str) -> None:
        """See `Transport`."""
        self._filters.append(topic_filter)
        self._client.subscribe(topic_filter, qos=1)

    def publish(self, topic: str, payload: bytes) -> int:
        """See `Transport`. While disconnected the packet is lost, as any packet may be."""
        self._client.publish(topic, payload, qos=0)
        return publish_bytes(topic, payload)

    def publish_retained(self, topic: str, payload: bytes) -> None:
        """See `Transport`. Said again on every new connection: the broker may have published our will, or be a new one."""
        self._retained[topic] = payload
        self._client.publish(topic, payload, qos=1, retain=True)

    def receive(self, timeout_s: float) -> Packet | None:
        """See `Transport`."""
        if self._refusal:
            raise TransportError(self._refusal)
        try:
            return self._inbox.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            return None

    def reconnections(self) -> int:
        """See `Transport`."""
        return self._connections - 1

    def close(self) -> None:
        """See `Transport`."""
        deadline = time.monotonic() + 2.0
        while self._client.want_write() and time.monotonic() < deadline:
            time.sleep(0.01)
        self._client.disconnect()
        self._client.loop_stop()

    def _connect(self, host: str, port: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if self._tls is not None:
                    check_broker(host, port, self._tls)  # paho would leave its socket behind
                self._client.connect(host, port, keepalive=_KEEP_ALIVE_S)
                break
            except TransportError:
                raise
            except (OSError, ValueError) as error:  # ValueError: a host that can be no host's name
                if isinstance(error, ValueError) or time.monotonic() > deadline:
                    raise TransportError(f"no MQTT broker answers at {host}:{port} ({error})") from error
                time.sleep(0.2)
        self._client.loop_start()
        while not self._connections:
            if self._refusal or time.monotonic() > deadline:
                self._client.loop_stop()
                raise TransportError(self._refusal or f"{host}:{port} accepts connections but does not speak MQTT")
            time.sleep(0.005)

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refusal = f"the MQTT broker refused the connection: {reason}"
            return
        for topic_filter in self._filters:
            client.subscribe(topic_filter, qos=1)
        for topic, payload in self._retained.items():
            client.publish(topic, payload, qos=1, retain=True)
        self._connections += 1
        if self._connections > 1:
            _log.warning("connected to the broker again (connection %d)", self._connections)

    def _on_disconnect(self, _client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure and not self._connections:
            self._refusal = refusal_of(*self._address, self._tls)
        elif reason.is_failure:
            _log.warning("lost the connection to the broker (%s); trying again", reason)

    def _on_subscribe(self, _client: paho.Client, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            self._refusal = (
                f"the MQTT broker does not let us read all of {', '.join(self._filters)}: does the name of the device "
                "fit its certificate?"
            )

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        payload = bytes(message.payload)
        waiting = self._inbox.qsize()
        if len(payload) > _MAX_PACKET_BYTES or waiting >= (
            _MAX_BIRTHS if message.topic.endswith(_BIRTHS) else _MAX_WAITING
        ):
            return
        self._inbox.put(Packet(message.topic, payload, publish_bytes(message.topic, payload)))


def _tune_socket(_client: paho.Client, _data: Any, connection: Any) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
    # A small send buffer keeps the queue in this process, where the window bounds it.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 131_072)
