"""Transports: the only place with sockets. Each delivers packets on topics, counts bytes, and promises nothing more."""

from cutlayer_core.wire.transports.base import LastWill, Packet, Transport
from cutlayer_core.wire.transports.memory import MemoryBroker, MemoryTransport
from cutlayer_core.wire.transports.mqtt import MqttTransport
from cutlayer_core.wire.transports.tls import load_tls

__all__ = ["LastWill", "MemoryBroker", "MemoryTransport", "MqttTransport", "Packet", "Transport", "load_tls"]
