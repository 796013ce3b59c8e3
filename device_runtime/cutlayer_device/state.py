"""A device's state on disk: what it needs to go on exactly where it stopped."""

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cutlayer.errors import UserError
from cutlayer_device.engines import EngineState

__all__ = ["read_state", "write_state"]

_STEPS, _BUNDLE = "steps", "bundle"


def write_state(path: Path, state: EngineState, fingerprint: str) -> None:
    """Replace the file at ``path``; after a crash or on a full disk it holds the old state or the new, never half of one.

    Args:
        path: a ``.safetensors`` file.
        state: of the engine.
        fingerprint: of the bundle's client.

    Raises:
        OSError: the file cannot be written; the old one is still there.
    """
    content = save(state.arrays, {_STEPS: str(state.steps), _BUNDLE: fingerprint})
    unfinished = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # or a power cut could undo the rename
    finally:
        os.close(folder)


def read_state(path: Path, like: EngineState, fingerprint: str) -> EngineState:
    """The state at ``path``, accepted only with the names, shapes and dtypes of ``like``.

    Raises:
        UserError: no such file, not a state, or the state of another bundle.
    """
    try:
        with safe_open(path, "numpy") as file:
            about = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        steps = int(about[_STEPS])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"state {path}: cannot be read; remove it to start anew: {error}") from error
    described = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    wanted = {name: (array.shape, array.dtype) for name, array in like.arrays.items()}
    if about.get(_BUNDLE) != fingerprint or described != wanted or steps < 0:
        raise UserError(f"state {path}: is of another bundle; give another --state, or remove it to start anew")
    return EngineState(arrays, steps)
