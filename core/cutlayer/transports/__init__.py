"""Transports: the only sockets. Each delivers packets on topics, counts bytes, and promises nothing more."""

from cutlayer.transports.base import LastWill, Packet, Transport
from cutlayer.transports.memory import MemoryBroker, MemoryTransport
from cutlayer.transports.mqtt import MqttTransport
from cutlayer.transports.tls import load_tls

__all__ = ["LastWill", "MemoryBroker", "MemoryTransport", "MqttTransport", "Packet", "Transport", "load_tls"]
