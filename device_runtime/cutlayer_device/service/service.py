"""What systemd runs on a board: trial after trial, through lost networks, refusals, updates and the server's crashes."""

import logging
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.bundles.release import DeviceConfig
from cutlayer_core.errors import CutlayerError, UserError
from cutlayer_core.trial import toml
from cutlayer_device.profiling.measurement import Setting, measure_step
from cutlayer_device.service.notify import Notifier
from cutlayer_device.service.update_listener import Listener
from cutlayer_device.service.updates import Updates
from cutlayer_device.training.membership import Membership
from cutlayer_device.tuning.tuning import Tuning
from cutlayer_profiles.choice import choose_profiler
from cutlayer_profiles.meters import Root, read_settings
from cutlayer_profiles.profiler import Profiler

__all__ = ["check_release", "serve"]

_T = TypeVar("_T")
_AGAIN_S = 15.0
_RELEASE = re.compile("[0-9a-f]{12}")
_CHECKED_BATCH = 4
_log = logging.getLogger(__name__)


def serve(config_path: Path, state: Path, probation_s: float) -> None:
    """Take part in trial after trial; does not return.

    Why a server or a broker rejects this device may change, so it tries again; a mistake on this device ends it. An
    update that does not reach its broker is rolled back, and this process ends, to be started again.

    Args:
        config_path: of the installed release.
        state: a folder for what must outlive this process.
        probation_s: how long an update may take to reach its broker.

    Raises:
        UserError: the configuration, or something that it names, is wrong.
        CutlayerError: the same is true of an update, which was rolled back.
    """
    notifier, path = Notifier(), config_path.resolve()  # another release may replace it meanwhile
    installed = _absolute(toml.read(path, DeviceConfig), path.parent)
    updates = Updates(state / "updates" / path.parent.name, installed)
    _forget_updates_of_others(state / "updates", path.parent.parent)
    membership = _on_probation(updates, lambda: _membership(updates, notifier))
    if updates.on_probation:
        threading.Thread(target=_supervise, args=(updates, probation_s), name="probation", daemon=True).start()
    notifier.ready()
    while True:
        try:
            reason = _on_probation(updates, lambda: membership.run(state / membership.fingerprint[:12], Tuning(state)))
            notifier.status(f"the last trial ended: {reason}")
        except UserError:
            raise
        except (CutlayerError, OSError) as error:
            if updates.outdated:
                raise
            _log.warning("%s; trying again in %g s", error, _AGAIN_S)
            notifier.status(str(error))
            _pause(notifier)


def _forget_updates_of_others(updates: Path, releases: Path) -> None:
    """Remove updates of releases that are gone from the board."""
    for folder in list(updates.glob("*/")):
        if _RELEASE.fullmatch(folder.name) and not (releases / folder.name).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _on_probation(updates: Updates, act: Callable[[], _T]) -> _T:
    """Call ``act``; if something is wrong with an update on probation, roll it back instead of stopping for good."""
    try:
        return act()
    except UserError as error:
        if not updates.on_probation:
            raise
        updates.take_back(str(error))
        raise CutlayerError(f"{updates.last}; starting again without it") from error


def _membership(updates: Updates, notifier: Notifier) -> Membership:
    """The membership with the configuration to run now, which proves itself once it has reached its broker."""
    listening = False

    def connected() -> None:
        nonlocal listening
        updates.confirm()
        if updates.accepts and not listening:
            listening = True
            Listener(config.name, updates, lambda will: membership.connect(will, float("inf")), _end).start()

    config = updates.started()
    membership = Membership(config, Path(), _credentials(config), notifier.alive, connected)
    return membership


def _supervise(updates: Updates, probation_s: float) -> None:
    time.sleep(probation_s)
    if updates.on_probation:
        updates.take_back(f"it did not reach its broker within {probation_s:g} s")
        _log.warning("%s; starting again without it", updates.last)
        _end()


def _end() -> None:
    """End as if systemd had asked for it, which then starts the device again."""
    os.kill(os.getpid(), signal.SIGTERM)


def _absolute(config: DeviceConfig, folder: Path) -> DeviceConfig:
    """The configuration with absolute paths."""
    paths = {key: str(folder / value) for key in ("bundle", "data", "tls", "meters") if (value := getattr(config, key))}
    return msgspec.structs.replace(config, **paths)


def _credentials(config: DeviceConfig) -> Path | None:
    """The folder where systemd has put the certificates; in the release itself only root may read them."""
    handed_over = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return Path(handed_over) if config.tls and handed_over else None


def _pause(notifier: Notifier) -> None:
    ends = time.monotonic() + _AGAIN_S
    while time.monotonic() < ends:
        notifier.alive()
        time.sleep(0.5)


def check_release(config_path: Path) -> str:
    """Load everything that a configuration names, and train a few steps on random samples; returns a line about it.

    Raises:
        UserError: something in it is wrong.
    """
    config = _absolute(toml.read(config_path, DeviceConfig), config_path.parent)
    Membership(config, Path(), _credentials(config))
    profiler, _ = choose_profiler(Root(), read_settings(Path(config.meters) if config.meters else None), config.energy)
    profiler.close()
    bundle = read_bundle(Path(config.bundle))
    cost = measure_step(
        bundle, Setting(Path(config.bundle), _CHECKED_BATCH, config.threads, 0.0, 0.0), Profiler(Root())
    )
    return (
        f"{config.name}: {bundle.manifest.client.factory} cut at {cost.cut!r}, {cost.step_ms:.1f} ms a step of {cost.batch_size}, "
        f"{cost.rss_peak_bytes / 2**20:.0f} MiB"
    )
