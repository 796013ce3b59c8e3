"""Sends an update to a device over MQTT, and waits until the device runs it or says why not."""

import base64
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cutlayer_core.errors import CutlayerError, PeerLost, UserError
from cutlayer_core.wire import topics
from cutlayer_core.wire.endpoint import Endpoint
from cutlayer_core.wire.messages import Presence, Update, Updated
from cutlayer_core.wire.presence import new_epoch, will_of
from cutlayer_core.wire.session import Role
from cutlayer_core.wire.transports import LastWill, Transport

__all__ = ["Sender", "make_key", "public_key_of", "sign"]


def make_key(path: Path) -> Path:
    """Write a private Ed25519 key that only its owner can read, and next to it the public key; returns its path.

    Raises:
        UserError: the file already exists.
    """
    public = path.with_name(f"{path.name}.pub")
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        path.touch(mode=0o600, exist_ok=False)
    except FileExistsError as error:
        raise UserError(f"{path}: is there already, and devices may know it: choose another name") from error
    path.write_bytes(pem)
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    public.write_text(base64.b64encode(raw).decode() + "\n", "ascii")
    return public


def public_key_of(path: Path) -> str:
    """The public key in a ``.pub`` that `make_key` wrote, in base64. Raises `UserError`."""
    try:
        text = path.read_text("ascii").strip()
        whole = len(base64.b64decode(text, validate=True)) == 32
    except (OSError, ValueError) as error:
        raise UserError(f"--update-key {path}: {error}") from error
    if not whole:
        raise UserError(f"--update-key {path}: is no public key of `cutlayer flash key`; give the .pub")
    return text


def sign(content: bytes, key: Path) -> bytes:
    """The Ed25519 signature of ``content``. Raises `UserError` if the file is not an Ed25519 key."""
    try:
        found = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"--key {key}: {error}") from error
    if not isinstance(found, Ed25519PrivateKey):
        raise UserError(f"--key {key}: is no Ed25519 key: make one with `cutlayer flash key`")
    return found.sign(content)


class Sender:
    """Sends updates, one after another.

    Args:
        connect: makes a connection with the given last will.
        wait_s: how long a device may take for each of: being there, trying an update, and coming back with it.
        tell: called with what it is waiting for.
    """

    def __init__(self, connect: Callable[[LastWill], Transport], wait_s: float, tell: Callable[[str], None]) -> None:
        self._birth = Presence(trial=topics.UPDATES, device=topics.SERVER, online=True, epoch=new_epoch())
        self._transport = connect(will_of(topics.control(topics.UPDATES), self._birth))
        self._wait_s, self._tell = wait_s, tell
        self._endpoint = Endpoint(Role.SERVER, topics.UPDATES, self._transport, self._birth.epoch, self._meet)
        self._devices: dict[str, Presence] = {}

    def close(self) -> None:
        """Announce that no updates will be sent any longer, and disconnect."""
        self._endpoint.presence.leave(self._birth)
        self._transport.close()

    def send(self, device: str, number: int, content: bytes, signature: bytes, *, comes_back: bool) -> str:
        """Send an update; returns what the device said of it. If it comes back to this broker, wait until it runs it.

        Raises:
            PeerLost: the device is not there, or does not come back.
            CutlayerError: it refuses the update, or rolled it back; nothing was changed there.
        """
        endpoint = self._endpoint
        endpoint.claim(topics.control(topics.UPDATES), self._birth)
        self._transport.subscribe(topics.up(topics.UPDATES, device))
        self._transport.subscribe(topics.state(topics.UPDATES, device))
        self._tell(f"waiting for {device}")
        first = self._await(
            device, lambda found: found.server == self._birth.epoch, "is not there, or was built without --update-key"
        )
        endpoint.conversations.open(device, first.epoch)
        self._tell(f"sending {len(content) / 1e3:.0f} kB, which {device} tries")
        endpoint.conversations.send(device, Update(signature=signature), content)
        answer = endpoint.expect(device, self._wait_s).header
        assert isinstance(answer, Updated), "the session lets nothing else through"
        if not answer.ok:
            raise CutlayerError(f"{device} refuses the update, and nothing was changed: {answer.reason}")
        endpoint.drain(timeout_s=2.0)
        endpoint.conversations.close(device)
        if not comes_back:
            return answer.reason
        self._tell(f"waiting for {device} to run it")
        then = self._await(
            device, lambda found: found.epoch != first.epoch, "did not come back: it takes the update back by itself"
        )
        if then.bundle != str(number):
            raise CutlayerError(f"{device} runs what it ran before: {then.engine}")
        return answer.reason

    def _meet(self, presence: Presence) -> None:
        self._devices[presence.device] = presence

    def _await(self, device: str, wanted: Callable[[Presence], bool], problem: str) -> Presence:
        ends = time.monotonic() + self._wait_s
        while time.monotonic() < ends:
            found = self._devices.get(device)
            if found is not None and found.online and wanted(found):
                return found
            self._endpoint.pump(0.5)
        raise PeerLost(f"{device} {problem}")
