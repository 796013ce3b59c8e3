"""The broker: whether it can be reached from here, as a trial would reach it."""

import socket
import ssl
import time
from pathlib import Path
from typing import NamedTuple

from cutlayer_core.address import split_address
from cutlayer_core.errors import TransportError
from cutlayer_core.trial.trial import read_trial
from cutlayer_core.wire.presence import new_epoch
from cutlayer_core.wire.transports import MqttTransport, load_tls
from cutlayer_profiles.checks.base import Check

__all__ = ["BrokerAddress", "broker_to_try", "check_broker"]

_NAMED_S, _DEFAULT_S = 5.0, 1.0
"""How long an answer is waited for."""


class BrokerAddress(NamedTuple):
    """Where a broker should be.

    Attributes:
        host, port: where.
        tls: the folder of certificates; None in the clear.
        named: whether the user named it, so that it has to be there.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    tls: Path | None = None
    named: bool = False


def broker_to_try(broker: str, trial: Path | None, tls: Path | None) -> BrokerAddress:
    """The one that the user names, else the trial's, else the usual one on this machine. Raises `UserError`."""
    if broker:
        return BrokerAddress(*split_address(broker, secured=tls is not None), tls, named=True)
    if trial is None:
        return BrokerAddress()
    found = read_trial(trial).broker
    return BrokerAddress(found.host, found.port, tls or (Path(found.tls) if found.tls else None), named=True)


def check_broker(address: BrokerAddress) -> Check:
    """Connect, and go. Raises `UserError` if the certificates cannot be used."""
    place = f"{address.host}:{address.port}"
    context = load_tls(address.tls) if address.tls else None
    began_s = time.monotonic()
    try:
        MqttTransport(
            address.host,
            address.port,
            f"cutlayer-{new_epoch():x}",
            connect_timeout_s=_NAMED_S if address.named else _DEFAULT_S,
            tls=context,
        ).close()
    except TransportError as error:
        return _unreached(address, error)
    took_ms = 1e3 * (time.monotonic() - began_s)
    return Check("broker", "ok", f"{place} answers{' over TLS' if context else ''}, in {took_ms:.0f} ms")


def _unreached(address: BrokerAddress, error: TransportError) -> Check:
    if not address.named:
        advice = "if yours is elsewhere: --broker HOST[:PORT], or --trial TRIAL.TOML"
        return Check("broker", "absent", f"none at {address.host}:{address.port}", advice)
    match error.__cause__:
        case socket.gaierror():
            advice = "give its address, if the name is right"
        case ssl.SSLError():  # the error says what is to be done
            advice = ""
        case ConnectionResetError() if address.tls:
            advice = f"if port {address.port} takes connections in the clear: leave TLS out, or give the other port"
        case OSError():
            advice = f"start it, let it listen to more than its own machine, open port {address.port} in firewalls"
        case _:
            advice = ""
    return Check("broker", "failed", str(error), advice)
