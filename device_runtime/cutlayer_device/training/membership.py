"""A device's membership in a trial: everything that it needs, loaded and checked, to take part once or repeatedly."""

import logging
import ssl
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from cutlayer_core.address import split_address
from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.bundles.release import DeviceConfig
from cutlayer_core.samples import data
from cutlayer_core.wire import topics
from cutlayer_core.wire.presence import new_epoch
from cutlayer_core.wire.transports import LastWill, MqttTransport, Transport, load_tls
from cutlayer_device.training.agent import Agent, birth_of
from cutlayer_device.training.states import States
from cutlayer_device.training.watched_transport import WatchedTransport
from cutlayer_device.tuning.tuning import Tuning
from cutlayer_profiles.choice import choose_profiler
from cutlayer_profiles.meters import Root, read_settings

__all__ = ["Membership"]

_FIRST_WAIT_S = 10.0
_log = logging.getLogger(__name__)


class _Broker(NamedTuple):
    host: str
    port: int
    tls: ssl.SSLContext | None


class Membership:
    """Who the device is, and what it trains with.

    Args:
        config: the configuration, written by a person or a laptop.
        folder: the folder to which its paths are relative.
        tls: the folder with the certificates, instead of the configuration's.
        alive: called while the device works or waits; if given, it waits for a broker for ever.
        connected: called each time that the broker was reached.

    Raises:
        UserError: a file is missing or wrong, the bundle has no valid certificate, or the configuration is impossible.
    """

    def __init__(
        self,
        config: DeviceConfig,
        folder: Path,
        tls: Path | None = None,
        alive: Callable[[], None] | None = None,
        connected: Callable[[], None] = lambda: None,
    ) -> None:
        self._config, self._alive, self._connected = config, alive, connected
        self._bundle = read_bundle(folder / config.bundle)
        self._bundle.require_certificate()
        manifest = self._bundle.manifest
        name = topics.check_name(config.name, "the device name")
        trial = topics.check_name(config.trial or manifest.trial, "the trial name")
        self._samples = data.load(folder / config.data, manifest.client.input, manifest.client.classes)
        self._birth = birth_of(self._bundle, trial, name, len(self._samples.y))
        tls = tls or (folder / config.tls if config.tls else None)
        host, port = split_address(config.broker, tls is not None)
        self._broker = _Broker(host, port, load_tls(tls) if tls else None)
        self._meters = read_settings(folder / config.meters if config.meters else None)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the client-side model: states of one model do not fit another."""
        return self._bundle.manifest.client.fingerprint

    def run(self, state: Path, tuning: Tuning | None = None) -> str:
        """Train until the trial is over; returns the server's reason.

        Args:
            state: a folder for what the board needs to resume after a crash, with a sub-folder per trial and device.
            tuning: what was measured on this board; by default that of ``state``.

        Raises:
            UserError: the folder holds states of another bundle, or another process uses it.
            CutlayerError: as from `Agent.run`.
        """
        profiler, source = choose_profiler(Root(), self._meters, self._config.energy)
        birth, alive = self._birth, self._alive
        wait_s = _FIRST_WAIT_S if alive is None else float("inf")

        def connect(will: LastWill, wait_s: float) -> Transport:
            transport = self.connect(will, wait_s, alive or (lambda: None))
            engine = f"{birth.engine} ({agent.runtime})"
            about = (birth.device, birth.samples, engine, self._broker.host, self._broker.port)
            _log.info("%s: %d samples, engine %s, no torch, broker %s:%d", *about)
            _log.info("energy: %s", source)
            self._connected()
            return WatchedTransport(transport, alive) if alive else transport

        folder = state / birth.trial / birth.device
        with closing(profiler), closing(States(folder, self.fingerprint)) as states:
            threads = self._config.threads
            agent = Agent(
                self._bundle, self._samples, birth, connect, states, threads, profiler, wait_s, tuning or Tuning(state)
            )
            reason = agent.run()
        _log.info("the trial is over: %s", reason)
        return reason

    def connect(self, will: LastWill, wait_s: float, waiting: Callable[[], None] = lambda: None) -> MqttTransport:
        """Connect to the device's broker within ``wait_s``, calling ``waiting`` meanwhile. Raises `TransportError`."""
        (host, port, tls), name = self._broker, f"cutlayer-{new_epoch():x}"
        return MqttTransport(host, port, name, will, wait_s, tls, waiting)
