"""A device's states on disk: what it needs to continue exactly where it stood when it, or the server, died."""

import logging
import re
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cutlayer_core.errors import RemoteProtocolError, UserError
from cutlayer_core.files import lock_file, replace_file, swap_number
from cutlayer_core.wire.messages import Position
from cutlayer_device.engines import EngineState

__all__ = ["States"]

_FILE = re.compile(r"(?P<run>[0-9a-f]{16})-(?P<epoch>\d{1,9})-(?P<steps>\d{1,9})-(?P<crc>[0-9a-f]{8})\.safetensors")
_KEPT = 3
"""The state of the server's newest checkpoint; the one before, in case another device died before it kept its part of
the newest; and the one after, in case the server, or a device that had yet to speak, dies before the next checkpoint is
written."""
_STEPS, _BUNDLE, _MEMORY = "steps", "bundle", "memory."
_log = logging.getLogger(__name__)


class States:
    """The newest states of one run, one file each.

    Invariant: after a crash at any moment, or on a full disk, every file is whole, and those that were there before the
    last call of `keep` are still there, up to its last line.

    Args:
        folder: used by nothing else, and by this process alone until `close`; created if it does not exist.
        fingerprint: of the bundle's client.

    Raises:
        UserError: the folder holds states of another bundle, or another process uses it.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._lock = lock_file(folder / ".lock", "each device needs a name of its own, or another --state")
        self.run = 0
        """The run that this device takes part in, and that its states belong to; 0 for none."""
        self._files: dict[Position, Path] = {}
        try:
            self._find()
        except UserError:
            self.close()
            raise

    def close(self) -> None:
        """Release the folder to other processes."""
        self._lock.close()

    @property
    def held(self) -> tuple[Position, ...]:
        """The positions of the states that are there, oldest first."""
        return tuple(self._files)

    def number(self, epoch: int) -> int:
        """Store the number of this participation; returns that of the previous one, 0 if there was none."""
        return swap_number(self._folder / "participation", epoch)

    def clear(self) -> None:
        """Remove all states: the run is over."""
        for path in self._files.values():
            path.unlink(missing_ok=True)
        (self._folder / "run").unlink(missing_ok=True)
        self.run, self._files = 0, {}

    def enter(self, run: int, restored: Position | None) -> None:
        """Have states belong to this run from now on; remove those of other runs, and those after the restored one.

        The run is on disk even before the first state, so that a board that died before it heard of its end still
        learns it.

        Raises:
            OSError: the disk is full.
            RemoteProtocolError: the state to be restored is not held; nothing was removed.
        """
        held = self.held
        if restored is not None and (run != self.run or restored not in held):
            raise RemoteProtocolError(f"the server names a state that this device does not hold: {restored}")
        for position in held[held.index(restored) + 1 :] if restored is not None else held:
            self._files.pop(position).unlink(missing_ok=True)
        swap_number(self._folder / "run", run)
        self.run = run

    def keep(self, position: Position, state: EngineState) -> None:
        """Write a state, and remove the oldest that is no longer needed.

        Raises:
            OSError: it cannot be written; the earlier ones stay.
        """
        # In C order: safetensors silently writes any other array in its memory order.
        memory = {f"{_MEMORY}{name}": np.array(array, order="C") for name, array in state.memory.items()}
        content = save(state.arrays | memory, {_STEPS: str(state.steps), _BUNDLE: self._fingerprint})
        name = f"{self.run:016x}-{position.epoch}-{position.steps}-{zlib.crc32(content):08x}.safetensors"
        path = self._folder / name
        replace_file(path, content)
        self._files.pop(position, None)
        self._files[position] = path
        for old in self.held[:-_KEPT]:
            self._files.pop(old).unlink(missing_ok=True)

    def read(self, position: Position, like: EngineState) -> EngineState:
        """The state at a position that is held, accepted only with the names, shapes and dtypes of ``like``.

        Raises:
            UserError: it was damaged meanwhile, or belongs to another bundle.
        """
        path = self._files[position]
        try:
            with safe_open(path, "numpy") as file:
                steps = int((file.metadata() or {})[_STEPS])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise UserError(f"state {path}: cannot be read; remove {self._folder} to start anew: {error}") from error
        memory = {name.removeprefix(_MEMORY): arrays.pop(name) for name in list(arrays) if name.startswith(_MEMORY)}
        described = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        wanted = {name: (array.shape, array.dtype) for name, array in like.arrays.items()}
        if described != wanted or steps < 0:
            raise UserError(f"state {path}: is not this bundle's; remove {self._folder} to start anew")
        return EngineState(arrays, steps, memory)

    def _find(self) -> None:
        """Load the list of states that are there and whole, oldest first."""
        for unfinished in self._folder.glob("*.part"):
            unfinished.unlink()
        with suppress(OSError, ValueError):
            self.run = int((self._folder / "run").read_text("ascii"))
        paths = self._folder.glob("*.safetensors")
        found = [(match, path) for path in paths if (match := _FILE.fullmatch(path.name))]
        for match, path in sorted(found, key=lambda pair: (int(pair[0]["epoch"]), int(pair[0]["steps"]))):
            if zlib.crc32(path.read_bytes()) != int(match["crc"], 16):
                _log.warning("removed the state %s: it was damaged on the disk", path)
                path.unlink()
                continue
            self._check(path)
            self.run = int(match["run"], 16)
            self._files[Position(int(match["epoch"]), int(match["steps"]))] = path

    def _check(self, path: Path) -> None:
        try:
            with safe_open(path, "numpy") as file:
                bundle = (file.metadata() or {}).get(_BUNDLE)
        except (OSError, SafetensorError) as error:
            raise UserError(f"state {path}: cannot be read; remove it to start anew: {error}") from error
        if bundle != self._fingerprint:
            raise UserError(f"state {path}: is of another bundle; give another --state, or remove it to start anew")
