"""TLS with certificates on both ends: a folder with the authority's certificate, our own, and its key."""

import os
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cutlayer_core.errors import TransportError, UserError

__all__ = ["AUTHORITY", "CERTIFICATE", "KEY", "check_broker", "load_tls", "refusal_of"]

AUTHORITY, CERTIFICATE, KEY = "ca.crt", "own.crt", "own.key"
_ALERTS = {
    "CERTIFICATE_EXPIRED": "our certificate has expired, or this machine's clock is wrong: have a new one made",
    "UNKNOWN_CA": "our certificate is of another authority than the broker's",
    "BAD_CERTIFICATE": "our certificate is not one that it accepts",
    "CERTIFICATE_REQUIRED": "it wants a certificate: give a folder that `cutlayer certs` made, "
    "--tls on a board, broker.tls in a trial file",
    "CERTIFICATE_REVOKED": "our certificate was revoked",
}


def load_tls(folder: Path) -> ssl.SSLContext:
    """The TLS context with which a connection proves who we are, and checks who the broker is.

    Args:
        folder: ``ca.crt``, ``own.crt`` and ``own.key``, as `cutlayer certs` makes them.

    Raises:
        UserError: a file is missing, damaged or does not fit the others, or others can read the key.
    """
    for name in (AUTHORITY, CERTIFICATE, KEY):
        if not (folder / name).is_file():
            raise UserError(f"TLS folder {folder}: has no {name}: copy the whole folder that `cutlayer certs` made")
    # systemd admits the service's user by an access list, which looks like a group permission.
    handed_over = str(folder) == os.environ.get("CREDENTIALS_DIRECTORY")
    if not handed_over and (folder / KEY).stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UserError(f"TLS folder {folder}: others can read {KEY}: chmod 600 {folder / KEY}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(folder / AUTHORITY)
        context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    except (ssl.SSLError, OSError) as error:
        raise UserError(f"TLS folder {folder}: certificate and key cannot be used: {error}") from error
    return context


def check_broker(host: str, port: int, context: ssl.SSLContext) -> None:
    """Check that the broker is who it claims to be.

    Raises:
        TransportError: its certificate is of another authority, another name, or expired; or it speaks no TLS.
        OSError: it cannot be reached.
    """
    try:
        with _secured(host, port, context):
            pass
    except ssl.SSLCertVerificationError as error:
        raise TransportError(f"the broker's certificate is not to be trusted: {error.verify_message}") from error
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        raise  # it went away in the middle, and may come back
    except ssl.SSLError as error:
        raise TransportError(f"{host}:{port} does not speak TLS with us: {error.reason or error}") from error


def refusal_of(host: str, port: int, context: ssl.SSLContext | None) -> str:
    """Why the broker rejects our certificate; empty if that is not why it drops us.

    With TLS 1.3 a broker says so only after the handshake, when an MQTT client has already sent its first packet and
    sees only a closed connection. So this does the handshake once more, and listens.
    """
    if context is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with _secured(host, port, context) as connection:
            connection.recv(1)
    except ssl.SSLError as error:
        reason = error.reason or ""
        found = next((text for name, text in _ALERTS.items() if name in reason), reason if "ALERT" in reason else "")
        return found and f"the broker refused us: {found}"
    except OSError:
        return ""
    return ""


@contextmanager
def _secured(host: str, port: int, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection((host, port), timeout=3.0) as raw,
        context.wrap_socket(raw, server_hostname=host) as connection,
    ):
        yield connection
