"""The board's side of a trial: take part until the server ends it, even through crashes of either side."""

import logging
from collections.abc import Callable

import msgspec

from cutlayer_core.bundles.bundle import Bundle
from cutlayer_core.errors import PeerStartedAnew
from cutlayer_core.samples import data
from cutlayer_core.wire import topics
from cutlayer_core.wire.messages import Presence
from cutlayer_core.wire.presence import new_epoch, will_of
from cutlayer_core.wire.transports import LastWill, Transport
from cutlayer_device.engines import load_engine
from cutlayer_device.training.board import Board
from cutlayer_device.training.participation import Participation
from cutlayer_device.training.states import States
from cutlayer_device.tuning.tuning import Tuning
from cutlayer_profiles.profiler import Profiler

__all__ = ["Agent", "Connect", "birth_of"]

Connect = Callable[[LastWill, float], Transport]
"""Makes a connection with the given last will, waiting for a broker for the given number of seconds."""
_log = logging.getLogger(__name__)


def birth_of(bundle: Bundle, trial: str, device: str, samples: int) -> Presence:
    """The birth with which a device announces itself."""
    client, engine = bundle.manifest.client.fingerprint, bundle.manifest.engine
    return Presence(
        trial=trial, device=device, online=True, epoch=new_epoch(), samples=samples, bundle=client, engine=engine
    )


class Agent:
    """One device in one trial.

    Args:
        bundle: a certified bundle.
        samples: this device's own training samples.
        birth: from `birth_of`.
        connect: called each time that the device takes part anew.
        states: where its states are kept, and found after a crash.
        threads: threads that the engine may use; 0 leaves the number to the engine.
        profiler: measures what each pass costs; None for no account of it.
        first_wait_s: how long to wait for the broker, until it has been there once in this run.
        tuning: says by which arrangement of the bundle's graphs this board trains; None: by the bundle's own.

    Attributes:
        runtime: name and version of what executes the bundle's graphs, and how they are arranged, if tuning says it.

    Raises:
        UserError: the bundle may not train, or the runtime that it needs is not installed.
    """

    def __init__(
        self,
        bundle: Bundle,
        samples: data.Samples,
        birth: Presence,
        connect: Connect,
        states: States,
        threads: int = 0,
        profiler: Profiler | None = None,
        first_wait_s: float = 10.0,
        tuning: Tuning | None = None,
    ) -> None:
        bundle.require_certificate()
        self._birth, self._connect, self._states = birth, connect, states
        self._first_wait_s = first_wait_s
        engine, arrangement = tuning.engine(bundle, threads) if tuning else (load_engine(bundle, threads), "")
        self.runtime = ", ".join(filter(None, (engine.runtime, arrangement)))
        self._board = Board(bundle, engine, samples, states, profiler)

    def run(self) -> str:
        """Take part until the server ends the trial; returns the server's reason.

        When the server restarts, this device starts anew too, from the state that the server then names.

        Raises:
            PeerLost: the server died and did not come back within the trial's patience.
            TrialFailed: the server gave up, or refused this device.
            RemoteError: the server broke the protocol.
            TransportError: there is no broker.
            OSError: a state cannot be written; those before it are still there.
        """
        # A broker that was there once may come back, also for a board that died since.
        wait_s = float("inf") if self._states.run else self._first_wait_s
        while True:
            birth = msgspec.structs.replace(
                self._birth, epoch=new_epoch(), run=self._states.run, held=self._states.held
            )
            transport = self._connect(will_of(topics.state(birth.trial, birth.device), birth), wait_s)
            wait_s = float("inf")
            try:
                return Participation(self._board, birth, transport).run()
            except PeerStartedAnew as error:
                _log.warning("%s: joining again", error)
            finally:
                transport.close()
