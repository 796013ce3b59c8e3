"""Certificates for a trial's broker, server and devices, and the broker's configuration that goes with them.

Everyone proves who they are: the broker takes the common name of a client's certificate as its user name, and the
access list lets a device write and read only its own topics. Elliptic curve P-256; the authority signs nothing but
these.
"""

import datetime as dt
import ipaddress
import os
import re
import secrets
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cutlayer_core.errors import UserError
from cutlayer_core.files import replace_file
from cutlayer_core.wire.topics import SERVER, check_name
from cutlayer_core.wire.transports.tls import AUTHORITY, CERTIFICATE, KEY

__all__ = ["Made", "certs", "make_certificates"]

_BACKDATED = dt.timedelta(days=2)
"""A board whose clock has no battery boots in the past."""
_AUTHORITY_DAYS = 3650
_RESERVED = ("authority", "broker", "server")
"""Our own folders, next to those of the devices."""

_MOSQUITTO = """\
# Mutual TLS: a client is who its certificate says. mosquitto must be able to read the keys; started by root, it becomes
# the user "mosquitto" first, so give these files to that user.
listener {port}
allow_anonymous false
require_certificate true
use_identity_as_username true
tls_version tlsv1.2
cafile {folder}/broker/ca.crt
certfile {folder}/broker/own.crt
keyfile {folder}/broker/own.key
acl_file {folder}/acl
persistence false
# Without this, every second small packet waits 40 ms for the acknowledgement of the first.
set_tcp_nodelay true
# With many boards more than the 1000 packets of the default wait for the server at times; what is dropped is sent again.
max_queued_messages 10000
"""
_ACL = """\
# A device writes and reads its own topics, and reads what the server tells all.
pattern write cutlayer/1/+/%u/up
pattern write cutlayer/1/+/%u/state
pattern read cutlayer/1/+/%u/state
pattern read cutlayer/1/+/%u/down
pattern read cutlayer/1/+/all/+

user {server}
topic readwrite cutlayer/1/#
"""


class Made(NamedTuple):
    """What was written, and what was already there and still fits."""

    written: list[Path]
    kept: list[Path]


class _Authority(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_certificates(folder: Path, hosts: Sequence[str], devices: Sequence[str], port: int, days: int) -> Made:
    """Write an authority, and a folder with certificate and key for the broker, the server and each device.

    What is already there is kept, so devices can be added later; remove a folder to have it made anew.

    Args:
        folder: created if it does not exist; ``authority/own.key`` in it is what an attacker would want.
        hosts: names and addresses at which the broker is reached.
        devices: as in the trial file.
        port: for the broker's configuration.
        days: how long the certificates are valid.

    Raises:
        UserError: a name that a device cannot have; files of another authority.
    """
    for device in devices:
        if check_name(device, "--device") in _RESERVED:
            raise UserError(f"--device {device!r}: the folder of that name holds something else; use another name")
    for host in hosts:
        _host(host)
    made = Made([], [])
    folder = folder.resolve()
    authority = _authority(folder / "authority", made)
    _identity(folder / "broker", authority, "broker", days, made, hosts)
    _identity(folder / "server", authority, SERVER, days, made)
    for device in devices:
        _identity(folder / device, authority, device, days, made)
    for name, text in (("mosquitto.conf", _MOSQUITTO), ("acl", _ACL)):
        path = folder / name
        path.write_text(text.format(folder=folder, port=port, server=SERVER), "utf-8")
        made.written.append(path)
    (folder / "acl").chmod(0o600)  # mosquitto warns about any other mode
    return made


def certs(folder: Path, hosts: list[str], devices: list[str], port: int, days: int) -> None:
    """``cutlayer certs``: make them, and show what the broker needs. Raises as `make_certificates` does."""
    made = make_certificates(folder, hosts, devices, port, days)
    for path in made.kept:
        print(f"kept     {path}")
    for path in made.written:
        print(f"written  {path}")
    for name in ("mosquitto.conf", "acl"):
        print(f"\n# {name}\n{(folder / name).read_text('utf-8')}", end="")


def _authority(folder: Path, made: Made) -> _Authority:
    if not (folder / CERTIFICATE).exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"cutlayer authority {secrets.token_hex(4)}")])
        builder = _builder(name, name, key, _AUTHORITY_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        _write(folder, builder.sign(key, hashes.SHA256()), key, made)
    else:
        made.kept.append(folder)
    try:
        certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes())
        loaded = serialization.load_pem_private_key((folder / KEY).read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder}: is not an authority that this command made: {error}") from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise UserError(f"{folder}: is not an authority that this command made")
    return _Authority(certificate, loaded)


def _identity(folder: Path, authority: _Authority, name: str, days: int, made: Made, hosts: Sequence[str] = ()) -> None:
    """Make the certificate and key of the broker, if there are ``hosts``, or else of one of its clients."""
    if (folder / CERTIFICATE).exists():
        _check(folder, authority, name, hosts)
        made.kept.append(folder)
        return
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = _builder(subject, authority.certificate.subject, key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / AUTHORITY).write_bytes(authority.certificate.public_bytes(serialization.Encoding.PEM))
    _write(folder, builder.sign(authority.key, hashes.SHA256()), key, made)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})", host):
            raise UserError(f"--broker {host!r}: use a host name or an address, without a port") from None
        return x509.DNSName(host)


def _check(folder: Path, authority: _Authority, name: str, hosts: Sequence[str]) -> None:
    """Check that what is there is what would be made."""
    again = "remove the folder to have it made anew"
    try:
        found = x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes())
        found.verify_directly_issued_by(authority.certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    except (InvalidSignature, ValueError, TypeError, OSError) as error:
        raise UserError(f"{folder}: is of another authority, or damaged; {again}") from error
    if [each.value for each in found.subject] != [name]:
        raise UserError(f"{folder}: is not the certificate of {name}; {again}")
    if found.not_valid_after_utc < dt.datetime.now(dt.timezone.utc):
        raise UserError(f"{folder}: its certificate has expired; {again}")
    if hosts:
        named = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if not {_host(host) for host in hosts} <= set(named):
            raise UserError(f"{folder}: is for other names of the broker than {', '.join(hosts)}; {again}")


def _write(folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, made: Made) -> None:
    """Write the certificate last: if it exists, so does everything that belongs to it."""
    folder.mkdir(parents=True, exist_ok=True)
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / KEY).unlink(missing_ok=True)
    # Never readable by others, not even for a moment.
    descriptor = os.open(folder / KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    replace_file(folder / CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM))
    made.written.append(folder)
