"""Addresses of brokers, as people write them."""

import re

from cutlayer_core.errors import UserError

__all__ = ["split_address"]


def split_address(address: str, secured: bool = False) -> tuple[str, int]:
    """``host`` or ``host:port``, by default port 1883, with TLS 8883. Raises `UserError` for anything else."""
    match = re.fullmatch(r"(?P<host>[^:\s]+|\[[0-9a-fA-F:]+\])(?::(?P<port>\d{1,5}))?", address)
    port = int(match["port"] or (8883 if secured else 1883)) if match else 0
    if match is None or not 0 < port < 65536:
        raise UserError(f"--broker: found {address!r}, allowed: HOST or HOST:PORT")
    return match["host"].strip("[]"), port
