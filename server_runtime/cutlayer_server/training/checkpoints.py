"""The server's checkpoints: everything that it needs to continue exactly where it stood."""

import logging
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cutlayer_core.errors import CutlayerError, UserError
from cutlayer_core.files import replace_file
from cutlayer_core.wire.messages import Position, Presence
from cutlayer_server.model.averaging import Arrays
from cutlayer_server.training.epoch import ClientWeights, EpochProgress
from cutlayer_server.training.selection import History

__all__ = ["KEPT", "Checkpoint", "Checkpoints", "Totals"]

_FILE = re.compile(r"(\d{8})-[0-9a-f]{8}\.safetensors")
KEPT = 2
"""How many are kept: a device may have died before it kept its own part of the newest."""
_log = logging.getLogger(__name__)


class Totals(msgspec.Struct, frozen=True):
    """What an epoch has cost so far, and how long the run record was."""

    events: int
    """Number of events that count."""
    spent_s: float
    up_bytes: int
    down_bytes: int
    phases_s: dict[str, float]


@dataclass
class Checkpoint:
    """The state of a training between two turns; the devices hold the rest, at ``positions``."""

    run: int
    history: History
    progress: EpochProgress
    positions: dict[str, Position]
    """Where each device that has trained stands; the others begin from their bundle."""
    model: dict[str, Tensor]
    """From `ServerModel.state`."""
    totals: Totals

    def forget(self, device: str) -> None:
        """Let the device go on without a state of its own; it starts its pass over, unless that is over."""
        self.positions.pop(device, None)
        self.progress.restart(device)

    def leave_out(self, device: str) -> None:
        """Remove a device that is no longer part of the trial."""
        self.positions.pop(device, None)
        self.progress.forget(device)
        self.history.forget(device)

    def is_held_by(self, device: Presence) -> bool:
        """Whether a device can resume from here."""
        position = self.positions.get(device.device)
        return position is None or (device.run == self.run and position in device.held)


class Checkpoints:
    """The newest checkpoints of one run, one file each.

    Invariant: after a crash at any moment, or on a full disk, every file is whole, and the one before the newest is
    still there. A name holds the CRC-32 of its file, so a file that the disk has damaged is skipped.

    Args:
        folder: used by nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, checkpoint: Checkpoint) -> None:
        """Add a checkpoint, and remove the oldest. Raises `OSError` if it cannot be written; the earlier ones stay."""
        for unfinished in self._folder.glob("*.part"):
            unfinished.unlink()
        content = _to_bytes(checkpoint)
        number = max(self._paths(), default=0) + 1
        replace_file(self._folder / f"{number:08d}-{zlib.crc32(content):08x}.safetensors", content)
        paths = self._paths()
        for old in sorted(paths)[:-KEPT]:
            paths[old].unlink(missing_ok=True)

    def newest_held_by(self, devices: dict[str, Presence], events: int) -> Checkpoint | None:
        """The newest checkpoint that all devices can resume from; later ones are removed. None if there is none at all.

        ``events`` is how many the run record has: a record that a power cut shortened cannot be resumed from a
        checkpoint that was written later.

        Raises:
            CutlayerError: there are checkpoints, but a device cannot resume from any of them.
        """
        lacking = ""
        for number, checkpoint in self._newest_first():
            if checkpoint.totals.events > events:
                continue
            lacking = next((name for name, each in devices.items() if not checkpoint.is_held_by(each)), "")
            if not lacking:
                for later, path in self._paths().items():
                    if later > number:
                        path.unlink()
                return checkpoint
        if lacking:
            raise CutlayerError(
                f"{lacking} does not hold the state that this run needs of it: give it the --state folder it had, "
                "or start the trial anew with another --run-dir"
            )
        return None

    def _newest_first(self) -> Iterator[tuple[int, Checkpoint]]:
        """The checkpoints that are whole, newest first."""
        for number, path in sorted(self._paths().items(), reverse=True):
            content = path.read_bytes()
            if path.stem.endswith(f"-{zlib.crc32(content):08x}"):
                yield number, _from_bytes(content, path)
            else:
                _log.warning("passed over the checkpoint %s: it was damaged on the disk", path)

    def _paths(self) -> dict[int, Path]:
        paths = self._folder.glob("*.safetensors")
        return {int(match[1]): path for path in paths if (match := _FILE.fullmatch(path.name))}


class _About(msgspec.Struct, rename={"history": "past", "totals": "books"}):
    """The metadata of the file, as JSON under the keys of format 1; tensors are named ``<kind>/...``."""

    run: int
    history: History
    positions: dict[str, Position]
    totals: Totals
    epoch: int
    steps: dict[str, int]
    samples: dict[str, int]
    returned: list[str]
    own: list[str]


def _to_bytes(checkpoint: Checkpoint) -> bytes:
    state = checkpoint.progress
    about = _About(
        run=checkpoint.run,
        history=checkpoint.history,
        positions=checkpoint.positions,
        totals=checkpoint.totals,
        epoch=state.epoch,
        steps=state.steps,
        samples=state.samples,
        returned=list(state.returned),
        own=list(state.weights.own),
    )
    tensors = {f"model/{name}": tensor.contiguous() for name, tensor in checkpoint.model.items()}
    tensors |= _tensors("weights", state.weights.common)
    for device, arrays in state.weights.own.items():
        tensors |= _tensors(f"own/{device}", arrays)
    for device, arrays in state.returned.items():
        tensors |= _tensors(f"returned/{device}", arrays)
    content: bytes = save(tensors, {"about": msgspec.json.encode(about).decode()})
    return content


def _from_bytes(content: bytes, path: Path) -> Checkpoint:
    """Decode a checkpoint. Raises `UserError` if it is not one."""
    try:
        length = int.from_bytes(content[:8], "little")
        metadata = msgspec.json.decode(content[8 : 8 + length], type=dict[str, dict[str, Any]])["__metadata__"]
        about = msgspec.json.decode(metadata["about"], type=_About)
        tensors = load(content)
    except (SafetensorError, KeyError, msgspec.MsgspecError) as error:
        raise UserError(f"checkpoint {path}: is none of this version; start the trial anew: {error}") from error
    state = EpochProgress(
        epoch=about.epoch,
        weights=ClientWeights(
            _arrays("weights", tensors), {device: _arrays(f"own/{device}", tensors) for device in about.own}
        ),
        steps=Counter(about.steps),
        samples=Counter(about.samples),
        returned={device: _arrays(f"returned/{device}", tensors) for device in about.returned},
    )
    return Checkpoint(about.run, about.history, state, about.positions, _under("model", tensors), about.totals)


def _tensors(kind: str, arrays: Arrays) -> dict[str, Tensor]:
    return {f"{kind}/{name}": torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def _arrays(kind: str, tensors: dict[str, Tensor]) -> Arrays:
    found: dict[str, Any] = {name: tensor.numpy() for name, tensor in _under(kind, tensors).items()}
    return found


def _under(kind: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{kind}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
