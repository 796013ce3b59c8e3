"""The server's connection to the broker that a trial file names."""

from pathlib import Path

from cutlayer_core.trial.trial import Trial
from cutlayer_core.wire.presence import new_epoch
from cutlayer_core.wire.transports import LastWill, MqttTransport, load_tls

__all__ = ["connect"]


def connect(trial: Trial, will: LastWill | None = None, wait_s: float = 10.0) -> MqttTransport:
    """Connect, with TLS if the trial has certificates. Raises what `MqttTransport` and `load_tls` raise."""
    broker = trial.broker
    tls = load_tls(Path(broker.tls)) if broker.tls else None
    return MqttTransport(broker.host, broker.port, f"cutlayer-{new_epoch():x}", will, wait_s, tls)
