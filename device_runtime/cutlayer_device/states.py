"""A device's states on disk: what it needs to go on exactly where it stood when it, or the server, died."""

import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cutlayer.errors import RemoteProtocolError, UserError
from cutlayer.files import replace_file
from cutlayer.messages import Position
from cutlayer_device.engines import EngineState

__all__ = ["States"]

_FILE = re.compile(r"(?P<run>[0-9a-f]{16})-(?P<epoch>\d{1,9})-(?P<steps>\d{1,9})\.safetensors")
_KEPT = 3
"""That of the server's newest checkpoint; the one before, if another device died before it kept its part of the newest;
and the one after, if the server, or a device that had yet to speak, dies before the next checkpoint is written."""
_STEPS, _BUNDLE = "steps", "bundle"


class States:
    """The newest states of one run, a file each.

    Invariant: after a crash at any moment, or on a full disk, every file is whole, and those that were there before the
    last call of `keep` are there still, up to its last line.

    Args:
        folder: theirs alone; made when the first state is kept.
        fingerprint: of the bundle's client.

    Raises:
        UserError: the folder holds states of another bundle.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self.run = 0
        """The run that the states are of, 0 for none."""
        self._files: dict[Position, Path] = {}
        found = [(match, path) for path in folder.glob("*.safetensors") if (match := _FILE.fullmatch(path.name))]
        for match, path in sorted(found, key=lambda pair: pair[1].stat().st_mtime_ns):
            self._check(path)
            self.run = int(match["run"], 16)
            self._files[Position(int(match["epoch"]), int(match["steps"]))] = path

    @property
    def held(self) -> tuple[Position, ...]:
        """The positions of the states that are there, oldest first."""
        return tuple(self._files)

    def enter(self, run: int, restored: Position | None) -> None:
        """From now on states are of this run; those of another, and those after the one restored, are removed.

        Raises:
            RemoteProtocolError: the state to be restored is not held; nothing was removed.
        """
        held = self.held
        if restored is not None and (run != self.run or restored not in held):
            raise RemoteProtocolError(f"the server names a state that this device does not hold: {restored}")
        for position in held[held.index(restored) + 1 :] if restored is not None else held:
            self._files.pop(position).unlink(missing_ok=True)
        self.run = run

    def keep(self, position: Position, state: EngineState) -> None:
        """Write a state, and remove the oldest that is no longer needed.

        Raises:
            OSError: it cannot be written; those that were there are there still.
        """
        path = self._folder / f"{self.run:016x}-{position.epoch}-{position.steps}.safetensors"
        replace_file(path, save(state.arrays, {_STEPS: str(state.steps), _BUNDLE: self._fingerprint}))
        self._files.pop(position, None)
        self._files[position] = path
        for old in self.held[:-_KEPT]:
            self._files.pop(old).unlink(missing_ok=True)

    def read(self, position: Position, like: EngineState) -> EngineState:
        """The state at ``position``, accepted only with the names, shapes and dtypes of ``like``.

        Raises:
            UserError: it is not there, or damaged.
        """
        path = self._files.get(position, self._folder)
        try:
            with safe_open(path, "numpy") as file:
                steps = int((file.metadata() or {})[_STEPS])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise UserError(f"state {path}: cannot be read; remove {self._folder} to start anew: {error}") from error
        described = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        wanted = {name: (array.shape, array.dtype) for name, array in like.arrays.items()}
        if described != wanted or steps < 0:
            raise UserError(f"state {path}: is not this bundle's; remove {self._folder} to start anew")
        return EngineState(arrays, steps)

    def _check(self, path: Path) -> None:
        try:
            with safe_open(path, "numpy") as file:
                bundle = (file.metadata() or {}).get(_BUNDLE)
        except (OSError, SafetensorError) as error:
            raise UserError(f"state {path}: cannot be read; remove it to start anew: {error}") from error
        if bundle != self._fingerprint:
            raise UserError(f"state {path}: is of another bundle; give another --state, or remove it to start anew")
