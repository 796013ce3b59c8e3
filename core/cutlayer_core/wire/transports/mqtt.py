"""MQTT over TCP with paho, tuned for tensors.

MQTT 5 is used if the broker speaks it, for two features: the broker says how large a packet may be, and publishes a
will only when its client has stayed away for a moment. Otherwise MQTT 3.1.1 is used, which every broker understands.
Two socket options matter:
``TCP_NODELAY``, without which Nagle's algorithm and delayed acknowledgements make a round trip 44 ms instead of
0.4 ms, and ``TCP_USER_TIMEOUT``, without which a half-open connection is noticed only after twice the keep-alive.
"""

import logging
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from cutlayer_core.errors import TransportError
from cutlayer_core.wire.transports.base import PROTOCOL_LIMIT_BYTES, LastWill, Packet, publish_bytes
from cutlayer_core.wire.transports.inbox import Inbox
from cutlayer_core.wire.transports.tls import check_broker, refusal_of

__all__ = ["MqttTransport"]

_KEEP_ALIVE_S = 20
"""Down to 200 kbit/s, 480 kB of chunks in flight fit into it; a message that does not fit would never get through."""
_USER_TIMEOUT_MS = 15_000
_WILL_DELAY_S = 2
"""If a connection is replaced within this time, the others never see it gone."""
_ANSWER_S = 3.0
"""How long a broker may take to answer, before MQTT 3.1.1 is tried, or a subscription is left to a later connection."""
_TELL_S = 8.0
"""How long a broker may be missing before that is logged; who waits less says so in words of their own."""
_POLL_S = 0.2
"""How often those who wait for the first connection hear of it, and a broker that is not there is looked for."""
_LEAST_PACKET_BYTES = 2048
"""Room for a birth, and for a chunk whose body is larger than its overhead."""
_log = logging.getLogger(__name__)


class MqttTransport:
    """A `Transport` over one broker connection, which paho's thread maintains and replaces when it breaks.

    Args:
        host, port: the broker.
        client_id: unique at the broker; a second process with the same one disconnects the first.
        will: what the broker publishes if this process vanishes.
        connect_timeout_s: how long to wait for the first connection.
        tls: from `load_tls`; without it everything travels in the clear.
        waiting: called several times a second until the first connection is up.

    Raises:
        TransportError: no broker answered in time, or it refused, or takes no packets of a useful size.
    """

    def __init__(
        self,
        host: str,
        port: int,
        client_id: str,
        will: LastWill | None = None,
        connect_timeout_s: float = 10.0,
        tls: ssl.SSLContext | None = None,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self._waiting = waiting
        self._inbox = Inbox()
        self._filters: list[str] = []
        self._retained: dict[str, bytes] = {}
        self._connections, self._agreed = 0, 0
        self._refusal, self._too_new = "", False
        self._max_packet_bytes = PROTOCOL_LIMIT_BYTES
        self._address, self._tls = (host, port), tls
        self._client = self._new_client(client_id, will, paho.MQTTv5)
        try:
            self._connect(host, port, connect_timeout_s)
        except TransportError:
            if not self._too_new:
                raise
            self._refusal = ""
            self._client = self._new_client(client_id, will, paho.MQTTv311)
            self._connect(host, port, connect_timeout_s)

    @property
    def max_packet_bytes(self) -> int:
        """See `Transport`."""
        return self._max_packet_bytes

    def subscribe(self, topic_filter: str) -> None:
        """See `Transport`. Returns when the broker has agreed, so that what is published from then on arrives."""
        self._filters.append(topic_filter)
        agreed, deadline = self._agreed, time.monotonic() + _ANSWER_S
        self._client.subscribe(topic_filter, qos=1)
        while self._agreed == agreed and not self._refusal and time.monotonic() < deadline:
            time.sleep(0.001)

    def publish(self, topic: str, payload: bytes) -> int:
        """See `Transport`. While disconnected the packet is lost, as any packet may be."""
        self._client.publish(topic, payload, qos=0)
        return publish_bytes(topic, payload, version=self._client.protocol)

    def publish_retained(self, topic: str, payload: bytes) -> None:
        """See `Transport`. Repeated on every new connection: the broker may have published our will, or be new."""
        self._retained[topic] = payload
        self._client.publish(topic, payload, qos=1, retain=True)

    def receive(self, timeout_s: float) -> Packet | None:
        """See `Transport`."""
        if self._refusal:
            raise TransportError(self._refusal)
        return self._inbox.get(timeout_s)

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

    def _new_client(self, client_id: str, will: LastWill | None, protocol: MQTTProtocolVersion) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=protocol)
        client.on_socket_open = _tune_socket
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        client.reconnect_delay_set(min_delay=1, max_delay=8)
        if will is not None:
            delay = None
            if protocol == paho.MQTTv5:
                delay = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
                delay.WillDelayInterval = _WILL_DELAY_S
            client.will_set(will.topic, will.payload, qos=1, retain=True, properties=delay)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        return client

    def _connect(self, host: str, port: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        self._open(host, port, deadline)
        self._client.loop_start()
        try:
            self._await_answer(f"{host}:{port}", deadline)
        except TransportError:
            self._client.loop_stop()
            raise

    def _open(self, host: str, port: int, deadline: float) -> None:
        tell_at = time.monotonic() + _TELL_S
        while True:
            try:
                if self._tls is not None:
                    check_broker(host, port, self._tls)  # paho would leave its socket behind
                self._client.connect(host, port, keepalive=_KEEP_ALIVE_S, properties=_session_of(self._client))
                break
            except TransportError:
                raise
            except (OSError, ValueError) as error:  # ValueError: a host that cannot be a host name
                if isinstance(error, ValueError) or time.monotonic() > deadline:
                    raise TransportError(f"no MQTT broker answers at {host}:{port} ({error})") from error
                if time.monotonic() > tell_at:
                    _log.warning("no MQTT broker answers at %s:%d yet (%s); trying on", host, port, error)
                    tell_at = float("inf")
                self._waiting()
                time.sleep(_POLL_S)

    def _await_answer(self, address: str, deadline: float) -> None:
        newest = self._client.protocol == paho.MQTTv5
        answer_by = min(deadline, time.monotonic() + _ANSWER_S) if newest else deadline
        poll_at, tell_at = time.monotonic() + _POLL_S, time.monotonic() + _TELL_S
        while not self._connections:
            now = time.monotonic()
            if self._refusal or now > answer_by:
                self._too_new |= newest and not self._refusal  # amqtt waits for the rest of what it misreads
                raise TransportError(self._refusal or f"{address} accepts connections but does not speak MQTT")
            if now > tell_at:
                _log.warning("%s accepts connections but does not answer yet; waiting on", address)
                tell_at = float("inf")
            if now > poll_at:
                self._waiting()
                poll_at = now + _POLL_S
            time.sleep(0.005)

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure and self._connections:
            _log.warning("the broker does not let us in again (%s); trying on", reason)
            return
        if reason.is_failure:
            self._refusal = f"the MQTT broker refused the connection: {reason}"
            self._too_new = client.protocol == paho.MQTTv5 and "protocol version" in str(reason)
            return
        limit = getattr(properties, "MaximumPacketSize", PROTOCOL_LIMIT_BYTES)
        if limit < _LEAST_PACKET_BYTES:
            self._refusal = (
                f"the MQTT broker takes packets up to {limit} bytes, needed are {_LEAST_PACKET_BYTES}: raise its limit"
            )
            return
        self._max_packet_bytes = limit
        for topic_filter in self._filters:
            client.subscribe(topic_filter, qos=1)
        for topic, payload in self._retained.items():
            client.publish(topic, payload, qos=1, retain=True)
        self._connections += 1
        if self._connections > 1:
            _log.warning("connected to the broker again (connection %d)", self._connections)

    def _on_disconnect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self._refusal:
            return  # the broker said why
        if reason.is_failure and not self._connections:
            self._refusal = refusal_of(*self._address, self._tls)
            if not self._refusal and client.protocol == paho.MQTTv5:  # some hang up on what they do not know
                self._refusal, self._too_new = "the MQTT broker closed the connection", True
        elif reason.is_failure:
            _log.warning("lost the connection to the broker (%s); trying again", reason)

    def _on_subscribe(self, _client: paho.Client, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        self._agreed += 1
        if any(reason.is_failure for reason in reasons):
            self._refusal = (
                f"the MQTT broker does not let us read all of {', '.join(self._filters)}: does the name of the device "
                "fit its certificate?"
            )

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        topic, payload = message.topic, bytes(message.payload)
        size = publish_bytes(topic, payload, version=self._client.protocol)
        self._inbox.put(Packet(topic, payload, size, time.monotonic()))


def _session_of(client: paho.Client) -> Properties | None:
    """Properties of a session that outlives its connection for as long as the will is delayed; without it, no delay."""
    if client.protocol != paho.MQTTv5:
        return None
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = _WILL_DELAY_S
    return properties


def _tune_socket(_client: paho.Client, _data: Any, connection: Any) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
    # A small send buffer keeps the queue in this process, where the window bounds it.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 131_072)
