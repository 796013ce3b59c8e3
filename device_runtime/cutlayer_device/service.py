"""What systemd runs on a board: trial after trial, through lost networks, refusals and the server's crashes."""

import logging
import os
import time
from pathlib import Path

from cutlayer import toml
from cutlayer.bundle import read_bundle
from cutlayer.errors import CutlayerError, UserError
from cutlayer.release import DeviceConfig
from cutlayer_device.measurement import Setting, measure_step
from cutlayer_device.membership import Membership
from cutlayer_device.notify import Notifier
from cutlayer_profiles.meters import Root
from cutlayer_profiles.profiler import Profiler

__all__ = ["check_release", "serve"]

_AGAIN_S = 15.0
_CHECKED_BATCH = 4
_log = logging.getLogger(__name__)


def serve(config_path: Path, state: Path) -> None:
    """Take part in trial after trial; does not return.

    What a server or a broker has against this device may change, so it is tried again; what is wrong here ends it.

    Raises:
        UserError: the configuration, or something that it names, is wrong.
    """
    notifier = Notifier()
    path = config_path.resolve()  # another release may take its place meanwhile
    config = toml.read(path, DeviceConfig)
    membership = Membership(config, path.parent, state, _credentials(config), notifier)
    notifier.ready()
    while True:
        try:
            notifier.status(f"the last trial ended: {membership.run()}")
        except UserError:
            raise
        except CutlayerError as error:
            _log.warning("%s; trying again in %g s", error, _AGAIN_S)
            notifier.status(str(error))
            _pause(notifier)


def _credentials(config: DeviceConfig) -> Path | None:
    """Where systemd has put the certificates, which only root may read where the release has them."""
    handed_over = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return Path(handed_over) if config.tls and handed_over else None


def _pause(notifier: Notifier) -> None:
    ends = time.monotonic() + _AGAIN_S
    while time.monotonic() < ends:
        notifier.alive()
        time.sleep(0.5)


def check_release(config_path: Path) -> str:
    """Load all that a configuration names, and train a few steps on random samples; returns a line about it.

    Raises:
        UserError: something is wrong with it.
    """
    config, folder = toml.read(config_path, DeviceConfig), config_path.parent
    Membership(config, folder, Path(), _credentials(config))
    bundle = read_bundle(folder / config.bundle)
    setting = Setting(folder / config.bundle, _CHECKED_BATCH, config.threads, 0.0, 0.0)
    cost = measure_step(bundle, setting, Profiler(Root()))
    return (
        f"{config.name}: {bundle.manifest.client.factory} cut at {cost.cut!r}, {cost.step_ms:.1f} ms a step of {cost.batch_size}, "
        f"{cost.rss_peak_bytes / 2**20:.0f} MiB"
    )
