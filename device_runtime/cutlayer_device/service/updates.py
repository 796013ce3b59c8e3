"""Updates on a device: verified, tried, switched to, and rolled back if it does not reach its broker with one."""

import base64
import binascii
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import msgspec

from cutlayer_core.bundles import update
from cutlayer_core.bundles.release import CONFIG, DeviceConfig
from cutlayer_core.errors import RemoteError, UserError
from cutlayer_core.files import replace_file
from cutlayer_core.trial import toml

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
except ModuleNotFoundError as error:
    raise UserError("a board that takes updates needs cryptography: pip install 'cutlayer[updates]'") from error

__all__ = ["Updates"]

_STATE, _HIGHEST = "state.json", "highest"
_MOST_STARTS = 3
_CHECK_S = 240.0


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Numbers of the updates that are there; 0 stands for what was installed.

    Attributes:
        current: the update that runs.
        before: the one that ran before, and runs again if ``current`` does not work.
        starts: how often ``current`` was started on probation; None once it has proved itself.
        last: what became of the last update.
    """

    current: int = 0
    before: int = 0
    starts: int | None = None
    last: str = ""


class Updates:
    """The updates of one installed release.

    Invariant: after a crash at any moment ``state.json`` is whole and names updates that are whole. An update that was
    switched to is on probation until `confirm`; one that is not confirmed in three starts is rolled back.

    Args:
        folder: used by nothing else; next to it, ``highest`` holds the number of the newest update that any release of
            this device ever took.
        installed: the configuration that came with the release, with absolute paths.

    Raises:
        UserError: the configuration's update key is not a valid one.
    """

    def __init__(self, folder: Path, installed: DeviceConfig) -> None:
        self._folder, self._installed, self._lock = folder, installed, threading.RLock()
        self._key = _public_key(installed.update_key)
        try:
            self._state = msgspec.json.decode((folder / _STATE).read_bytes(), type=_State)
        except (OSError, msgspec.MsgspecError):
            self._state = _State()
        self._running = 0
        """Number of the update that this process runs."""

    @property
    def accepts(self) -> bool:
        """Whether anybody may send updates."""
        return self._key is not None

    @property
    def current(self) -> int:
        """The number of the current update; 0 for what was installed."""
        return self._state.current

    @property
    def last(self) -> str:
        """What became of the last update."""
        return self._state.last

    @property
    def outdated(self) -> bool:
        """Whether this process runs something other than the next one will."""
        return self._running != self._state.current

    @property
    def on_probation(self) -> bool:
        """Whether the current update has yet to prove itself."""
        return self._state.starts is not None

    def started(self) -> DeviceConfig:
        """The configuration to run; an update on probation that was started too often is rolled back first.

        Raises:
            UserError: that of the current update is gone.
        """
        if self._state.starts is not None and self._state.starts >= _MOST_STARTS:
            self.take_back("the device did not come up with it")
        elif self._state.starts is not None:
            self._write(starts=self._state.starts + 1)
        self._running = self._state.current
        if not self._running:
            return self._installed
        return toml.read(self._folder / str(self._running) / CONFIG, DeviceConfig)

    def confirm(self) -> None:
        """Note that what this process runs works."""
        with self._lock:
            if self.on_probation and self._running == self._state.current:
                self._write(starts=None, before=self._state.current, last=f"update {self._state.current} runs")
                self._prune()

    def take_back(self, why: str) -> None:
        """Roll back to what ran before, from the next start on; an update that has proved itself stays."""
        with self._lock:
            if self.on_probation:
                text = f"update {self._state.current} was taken back: {why}"[:500]
                self._write(current=self._state.before, starts=None, last=text)
                self._prune()

    def take(self, content: bytes, signature: bytes) -> str:
        """Verify an update, try it, and switch to it for the next start; returns a line about it.

        Raises:
            RemoteError: it is not signed by the owner of the update key, not for this device, not newer than an earlier
                one, or does not work here; nothing was changed.
        """
        if self._key is None:
            raise RemoteError("this device takes no updates: it was built without --update-key")
        try:
            self._key.verify(signature, content)
        except InvalidSignature as error:
            raise RemoteError("its signature is not that of the key that this device was built with") from error
        manifest, bundle = update.unpack(content)
        if manifest.device != self._installed.name:
            raise RemoteError(f"it is for {manifest.device}, this is {self._installed.name}")
        if manifest.number <= (highest := self._highest()):
            raise RemoteError(f"it has the number {manifest.number}, and {highest} was here before: sign it anew")
        if self.on_probation:
            raise RemoteError(f"update {self._state.current} has yet to prove itself: wait for that")
        folder = self._folder / str(manifest.number)
        try:
            said = self._tried(folder, manifest, bundle)
        except (RemoteError, OSError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise (
                error if isinstance(error, RemoteError) else RemoteError(f"it cannot be kept here: {error}")
            ) from error
        number = manifest.number
        try:
            with self._lock:
                replace_file(self._folder.parent / _HIGHEST, str(number).encode())
                self._write(current=number, before=self._state.current, starts=0, last=f"update {number} is tried")
        except OSError as error:
            raise RemoteError(f"it cannot be kept here: {error}") from error
        return said

    def _tried(self, folder: Path, manifest: update.Manifest, bundle: bytes | None) -> str:
        """Put an update into its folder, and run the device's own check with it in a separate process."""
        config = manifest.changes.applied(self._installed)
        if bundle is not None:
            replace_file(folder / "client.zip", bundle)
            config = msgspec.structs.replace(config, bundle=str(folder / "client.zip"))
        fields = {key: value for key, value in msgspec.structs.asdict(config).items() if value not in ("", 0)}
        # JSON's strings and numbers are valid TOML, too.
        lines = (f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in fields.items())
        replace_file(folder / CONFIG, "".join(lines).encode())
        words = [sys.executable, "-m", "cutlayer_device", "check", str(folder / CONFIG)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_CHECK_S)
        except subprocess.TimeoutExpired as error:
            raise RemoteError("it does not work here: its check never ends") from error
        if done.returncode:
            killed = (
                f"its check was killed by signal {-done.returncode}"
                if done.returncode < 0
                else f"status {done.returncode}"
            )
            why = (done.stderr.strip() or killed).splitlines()[-1]
            raise RemoteError(f"it does not work here: {why[:1500]}")
        return done.stdout.strip()[:1500]

    def _highest(self) -> int:
        try:
            return int((self._folder.parent / _HIGHEST).read_text("ascii"))
        except (OSError, ValueError):
            return 0

    def _write(self, **changes: int | str | None) -> None:
        self._state = msgspec.structs.replace(self._state, **changes)
        replace_file(self._folder / _STATE, msgspec.json.encode(self._state))

    def _prune(self) -> None:
        """Remove updates that neither run nor may be rolled back to."""
        wanted = {str(self._state.current), str(self._state.before), _STATE}
        for path in self._folder.iterdir():
            if path.name not in wanted:
                shutil.rmtree(path, ignore_errors=True)


def _public_key(text: str) -> Ed25519PublicKey | None:
    if not text:
        return None
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error) as error:
        raise UserError("update_key: is no Ed25519 public key in base64: make one with `cutlayer flash key`") from error
