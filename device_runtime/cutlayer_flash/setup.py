"""What a board becomes on its first boot: its name, its user, who may log in, its Wi-Fi."""

import hashlib
import re
from typing import NamedTuple

from cutlayer_core.errors import UserError

__all__ = ["Setup", "Wifi"]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_KEY = re.compile(r"(ssh-(ed25519|rsa)|ecdsa-sha2-\S+|sk-\S+) [A-Za-z0-9+/=]+( [^\n]*)?")


class Wifi(NamedTuple):
    """A WPA2 network, whose passphrase is turned into its key at once."""

    ssid: str
    psk: str
    country: str
    hidden: bool = False

    @classmethod
    def of(cls, ssid: str, passphrase: str, country: str, *, hidden: bool = False) -> "Wifi":
        """Derive WPA2's key of 64 hexadecimal digits from a passphrase (IEEE 802.11, J.4). Raises `UserError`."""
        if not 1 <= len(ssid.encode()) <= 32 or "\n" in ssid:
            raise UserError("--wifi: a network's name has 1 to 32 bytes")
        if not re.fullmatch(r"[A-Z]{2}", country):
            raise UserError(
                f"--country: found {country!r}, allowed: two capitals, such as DE; without it the radio stays off"
            )
        if re.fullmatch(r"[0-9a-fA-F]{64}", passphrase):
            return cls(ssid, passphrase.lower(), country, hidden)
        if not 8 <= len(passphrase) <= 63 or not passphrase.isascii() or not passphrase.isprintable():
            raise UserError(
                "the Wi-Fi's passphrase: allowed are 8 to 63 printable ASCII letters, or the key of 64 hexadecimal digits"
            )
        psk = hashlib.pbkdf2_hmac("sha1", passphrase.encode(), ssid.encode(), 4096, 32).hex()
        return cls(ssid, psk, country, hidden)


class Setup(NamedTuple):
    """What the board becomes on its first boot.

    Attributes: hostname, user: of the board; the user has no password, and may become root.
        ssh_key: the public key that may log in.
        wifi: without it, the board needs a cable.
        i2c: whether there are meters on the I2C bus.
    """

    hostname: str
    user: str
    ssh_key: str
    wifi: Wifi | None = None
    i2c: bool = True

    def check(self) -> None:
        """Raise `UserError` if a value is impossible."""
        for option, value in (("--hostname", self.hostname), ("--user", self.user)):
            if not _NAME.fullmatch(value):
                raise UserError(
                    f"{option}: found {value!r}, allowed: up to 31 lower-case letters, digits and '-', a letter first"
                )
        if not _KEY.fullmatch(self.ssh_key):
            raise UserError("--ssh-key: is no public key of OpenSSH: give a file such as ~/.ssh/id_ed25519.pub")
