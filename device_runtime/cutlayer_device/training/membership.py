"""A device's part in a trial: everything that it needs, loaded and checked, to be taken up once or again and again."""

import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

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
from cutlayer_profiles.choice import choose_profiler
from cutlayer_profiles.meters import Root, read_settings

__all__ = ["Membership"]

_FIRST_WAIT_S = 10.0
_log = logging.getLogger(__name__)


class Membership:
    """Who the device is, and with what it trains.

    Args:
        config: as a person or a laptop wrote it.
        folder: to which its paths are relative.
        tls: the folder with the certificates, in the place of the configuration's.
        alive: called while the device works or waits; with it, a broker is waited for without end.
        connected: called each time that the broker was reached.

    Raises:
        UserError: a file is missing or wrong, or has no valid certificate of parity, or the configuration cannot be.
    """

    def __init__(
        self,
        config: DeviceConfig,
        folder: Path,
        tls: Path | None = None,
        alive: Callable[[], None] | None = None,
        connected: Callable[[], None] = lambda: None,
    ) -> None:
        self._bundle = read_bundle(folder / config.bundle)
        self._bundle.require_certificate()
        manifest = self._bundle.manifest
        self._name = topics.check_name(config.name, "the device name")
        self._trial = topics.check_name(config.trial or manifest.trial, "the trial name")
        self._samples = data.load(folder / config.data, manifest.client.input, manifest.client.classes)
        tls = tls or (folder / config.tls if config.tls else None)
        self._address = split_address(config.broker, tls is not None)
        self._tls = load_tls(tls) if tls else None
        self._alive, self._connected = alive, connected
        self._threads, self._energy = config.threads, config.energy
        self._meters = read_settings(folder / config.meters if config.meters else None)

    @property
    def fingerprint(self) -> str:
        """Of the client-side model: states of one do not fit another."""
        return self._bundle.manifest.client.fingerprint

    def run(self, state: Path) -> str:
        """Train until the trial is over; returns the server's reason.

        Args:
            state: a folder for what the board needs to go on after a crash, a sub-folder a trial and device.

        Raises:
            UserError: the folder holds states of another bundle, or another process uses it.
            CutlayerError: as `Agent.run`.
        """
        profiler, source = choose_profiler(Root(), self._meters, self._energy)
        birth = birth_of(self._bundle, self._trial, self._name, len(self._samples.y))
        wait_s = _FIRST_WAIT_S if self._alive is None else float("inf")

        def connect(will: LastWill, wait_s: float) -> Transport:
            transport = self.connect(will, wait_s, self._alive or (lambda: None))
            about = (self._name, len(self._samples.y), self._bundle.manifest.engine, agent.runtime, *self._address)
            _log.info("%s: %d samples, engine %s (%s), no torch, broker %s:%d", *about)
            _log.info("energy: %s", source)
            self._connected()
            return WatchedTransport(transport, self._alive) if self._alive else transport

        with closing(profiler), closing(States(state / self._trial / self._name, self.fingerprint)) as states:
            agent = Agent(self._bundle, self._samples, birth, connect, states, self._threads, profiler, wait_s)
            reason = agent.run()
        _log.info("the trial is over: %s", reason)
        return reason

    def connect(self, will: LastWill, wait_s: float, waiting: Callable[[], None] = lambda: None) -> MqttTransport:
        """A connection to the device's broker, waited for so long; ``waiting`` is called meanwhile. Raises `TransportError`."""
        (host, port), name = self._address, f"cutlayer-{new_epoch():x}"
        return MqttTransport(host, port, name, will, wait_s, self._tls, waiting)
