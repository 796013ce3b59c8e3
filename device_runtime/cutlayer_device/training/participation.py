"""One participation of a board in a trial, with one process of the server: join, train when told to, leave."""

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutlayer_core.bundles.bundle import Bundle
from cutlayer_core.codecs import NOTHING, Arrays, Payload, Sent
from cutlayer_core.errors import CutlayerError, MessageError, PeerLost, PeerStartedAnew
from cutlayer_core.record.phases import Phases
from cutlayer_core.samples import data
from cutlayer_core.samples.draws import seed_of
from cutlayer_core.schedules import Mode
from cutlayer_core.wire import topics
from cutlayer_core.wire.endpoint import Endpoint
from cutlayer_core.wire.messages import (
    Assignment,
    Begin,
    End,
    Gradient,
    Header,
    Keep,
    Kept,
    Lacking,
    Message,
    Position,
    Presence,
    Settle,
    Settled,
    Shared,
    Smashed,
    Weights,
    decode_weights,
    encode_weights,
)
from cutlayer_core.wire.session import Role
from cutlayer_core.wire.transports import Transport
from cutlayer_device.engines import Engine, EngineState
from cutlayer_device.training.states import States
from cutlayer_profiles.profiler import Profiler

__all__ = ["Board", "Participation", "TrialFailed"]

_T = TypeVar("_T")
_FOREVER = float("inf")
_BROADCAST_S = 1.0
"""How long a message to all may come after the message that speaks of it."""
_log = logging.getLogger(__name__)


class TrialFailed(CutlayerError):
    """The server ended the trial because something went wrong, or would not have this device."""


class Board(NamedTuple):
    """What a board brings into each participation, and takes out of it."""

    bundle: Bundle
    engine: Engine
    samples: data.Samples
    states: States
    profiler: Profiler | None = None


class Participation:
    """From a birth to the end of the trial, or of the server's process.

    Args:
        board: trains.
        birth: new for each participation.
        transport: connected, with the last will that belongs to ``birth``.
    """

    def __init__(self, board: Board, birth: Presence, transport: Transport) -> None:
        self._board, self._birth, self._transport = board, birth, transport
        client = board.bundle.manifest.client
        self._prepare = data.Preparation(client.input, client.mean, client.std)
        self._endpoint = Endpoint(Role.DEVICE, birth.trial, transport, birth.epoch, self._meet_server)
        self._mark = board.profiler.mark if board.profiler else _mark_nothing
        self._phases = Phases(time.monotonic, self._mark)
        self._patience_s, self._rejoins = _FOREVER, False
        self._memory: Arrays = NOTHING
        """What the codec keeps from step to step; changes with the weights, and is kept with them."""
        self._server_epoch: int | None = None
        self._server_online = True
        self._leaving = False

    def run(self) -> str:
        """Until the server ends the trial; returns its reason. Raises as `Agent.run` does, and `PeerStartedAnew`."""
        trial, device = self._birth.trial, self._birth.device
        earlier = self._board.states.number(self._birth.epoch)
        self._endpoint.claim(topics.state(trial, device), self._birth, earlier=earlier)
        self._transport.subscribe(topics.down(trial, device))
        self._transport.subscribe(topics.control(trial))
        _log.info("waiting for the server of the trial %r", trial)
        try:
            while self._server_epoch is None:
                self._endpoint.pump(1.0)
            return self._take_part()
        except _Over as over:
            self._board.states.clear()
            return str(over)
        finally:
            self._endpoint.presence.leave(self._birth)

    def _take_part(self) -> str:
        assignment: Assignment | None = None
        while True:
            message = self._hear()
            match message.header:
                case Assignment() as assignment:
                    self._take_up(assignment)
                case Keep(position=position):
                    self._keep(position)
                    self._say(Kept())
                case Settle(idle_s=idle_s):
                    if (end := self._settle(idle_s)) is not None:
                        return self._leave(end)
                case Begin() as begin if assignment is not None:
                    self._pass(assignment, begin, message.payload)
                case End() as end:
                    return self._leave(end)

    def _take_up(self, assignment: Assignment) -> None:
        """Go on from the state that the server names, or from the beginning."""
        bundle, engine, states = self._board.bundle, self._board.engine, self._board.states
        batch = (assignment.batch_size, *bundle.manifest.client.smashed.shape)
        if problem := assignment.codecs.problem(batch):
            raise MessageError(f"the server assigns codecs that this client's smashed data do not fit: {problem}")
        restore, self._patience_s, self._rejoins = assignment.restore, assignment.patience_s, assignment.rejoins
        states.enter(assignment.run, restore)
        state = EngineState(bundle.arrays(), 0) if restore is None else states.read(restore, engine.state())
        engine.restore(state)
        self._memory = state.memory
        if self._board.profiler is not None and restore is None:
            self._board.profiler.report()  # what came before was waiting for a server
        where = "" if restore is None else f", after step {restore.steps} of epoch {restore.epoch + 1}"
        _log.info("joined the trial %r as client %d%s", self._birth.trial, assignment.client, where)

    def _pass(self, assignment: Assignment, begin: Begin, weights: Payload) -> None:
        """One pass over this device's samples: all that a board does in split learning.

        While the answer to a batch is under way the next one is loaded; where no answer is needed, it is also forwarded.
        """
        engine, phases, steps = self._board.engine, self._phases, begin.steps
        exchanges = begin.mode is Mode.EXCHANGE
        if weights:
            engine.load(decode_weights(weights, like=engine.weights()))
        seed = (assignment.seed, assignment.client, begin.epoch)
        every = data.batches(self._board.samples, self._prepare, assignment.batch_size, seed, assignment.augmentation)
        batches = itertools.islice(every, begin.steps, None)
        batch = self._load(batches)
        while batch is not None:
            with phases("forward"):
                z = engine.forward(batch.x, seed_of(*seed, steps)) if exchanges else engine.infer(batch.x)
            with phases("encode"):
                sent = assignment.codecs.encode(z, seed_of(*seed, steps, 1), self._memory, steady=not exchanges)
            with phases("send"):
                labels = batch.y.astype("<u2").tobytes()
                self._say(Smashed(epoch=begin.epoch, step=steps, tensor=sent.tensor, labels=labels), sent.payload)
            steps += 1
            batch = self._load(batches)
            if exchanges:
                self._update(assignment, Position(begin.epoch, steps), sent)
            else:
                self._pause()
        usage = self._board.profiler.report() if self._board.profiler else None
        end = Weights(epoch=begin.epoch, steps=steps, phases_s=phases.take(), usage=usage)
        self._say(end, encode_weights(engine.weights()) if exchanges else b"")
        _log.info("epoch %d: %d steps", begin.epoch + 1, steps)

    def _load(self, batches: Iterator[data.Batch]) -> data.Batch | None:
        with self._phases("load"):
            return next(batches, None)

    def _pause(self) -> None:
        """Let the network catch up, so that what waits to be sent does not fill the memory."""
        with self._phases("network"):
            message = self._patiently(lambda patience_s: self._endpoint.await_room(self._birth.device, patience_s))
        if message is not None:
            assert isinstance(message.header, End), "the session lets nothing else through"
            raise TrialFailed(self._leave(message.header))

    def _update(self, assignment: Assignment, position: Position, sent: Sent) -> None:
        """The second half of a step, after which the device stands at ``position``."""
        phases, board = self._phases, self._board
        began = time.monotonic()
        reply = self._hear()
        ended = time.monotonic()
        self._mark("wait", began, ended)
        waited_s = ended - began
        if isinstance(reply.header, End):
            raise TrialFailed(self._leave(reply.header))
        assert isinstance(reply.header, Gradient), "the session lets nothing else through"
        shared = self._shared(assignment, reply.header, sent)
        server_s = min(reply.header.spent_s, waited_s)
        phases.add({"server": server_s, "network": waited_s - server_s})
        with phases("decode"):
            gradient = assignment.codecs.decode_gradient(reply.header.tensor, reply.payload, sent, shared)
        with phases("backward"):
            board.engine.backward(gradient, assignment.learning_rate)
        self._memory = sent.memory
        if reply.header.keep:
            with phases("keep"):
                self._keep(position)

    def _shared(self, assignment: Assignment, header: Gradient, sent: Sent) -> NDArray[np.float32] | None:
        """The first samples of the gradient, which all devices have in common; None if this one has none of these."""
        if header.shared is None:
            return None
        with self._phases("network"):
            number = header.shared.number
            message = self._patiently(lambda _: self._endpoint.await_broadcast(number, _BROADCAST_S))
        if message is None:
            with self._phases("network"):
                self._say(Lacking(number=number))
                message = self._hear()
            if isinstance(message.header, End):
                raise TrialFailed(self._leave(message.header))
        if not isinstance(message.header, Shared):
            raise MessageError(f"the message to all of number {number} is a {type(message.header).__name__}")
        with self._phases("decode"):
            return assignment.codecs.decode_shared(header.shared.tensor, message.payload, sent.tensor)

    def _keep(self, position: Position) -> None:
        """Put the present state on the disk."""
        state = self._board.engine.state()
        self._board.states.keep(position, state._replace(memory=dict(self._memory)))

    def _settle(self, idle_s: float) -> End | None:
        """Close the account, do nothing for so long, and say what both cost; returns the end of the trial if it comes first."""
        profiler = self._board.profiler
        usage = profiler.report() if profiler else None
        ends = time.monotonic() + idle_s
        while (left := ends - time.monotonic()) > 0:
            with suppress(_ServerMoved):
                self._endpoint.pump(left)
            if (message := self._endpoint.conversations.poll(self._birth.device)) is not None:
                assert isinstance(message.header, End), "the session lets nothing else through"
                return message.header
        idle = profiler.report() if profiler and idle_s else None
        self._say(Settled(usage=usage, idle=idle))
        return None

    def _say(self, header: Header, payload: Payload = b"") -> None:
        self._endpoint.conversations.send(self._birth.device, header, payload)

    def _hear(self) -> Message:
        """The server's next message. Raises as `_patiently`."""
        return self._patiently(lambda limit: self._endpoint.expect(self._birth.device, limit))

    def _patiently(self, wait: Callable[[float], _T]) -> _T:
        """Wait for the server, given how long: while it is offline no longer than the trial's patience.

        While it is online it decides about patience: it may wait for another device, and tells us if it gives us up.

        Raises:
            PeerLost: it does not come.
            PeerStartedAnew: likewise, in a trial that goes on without this device, which shall join again.
        """
        while True:
            try:
                return wait(_FOREVER if self._server_online else self._patience_s)
            except _ServerMoved:
                continue
            except PeerLost as error:
                why = "the server left without ending the trial"
                raise (PeerStartedAnew if self._rejoins else PeerLost)(why) from error

    def _leave(self, end: End) -> str:
        self._leaving = True
        self._endpoint.drain(timeout_s=2.0)
        if not end.ok:
            raise TrialFailed(end.reason)
        self._board.states.clear()
        return end.reason

    def _meet_server(self, presence: Presence) -> None:
        """Answer a server that is there, and notice when it goes and comes back; what an earlier one left means nothing."""
        ours = presence.run == self._board.states.run or presence.epoch == self._server_epoch
        if presence.over and ours and not self._leaving:
            raise _Over(presence.over)
        if presence.serves:  # it answers queries, and would have us forget what we hold of a training
            _log.warning("the server of the trial %r answers queries; waiting for one that trains", self._birth.trial)
            return
        if self._leaving or (presence.epoch != self._server_epoch and not presence.online):
            return
        if self._server_epoch is None:
            self._server_epoch = presence.epoch
            self._endpoint.conversations.open(self._birth.device, presence.epoch)
            self._endpoint.broadcasts.listen(presence.epoch)
            self._endpoint.presence.announce(msgspec.structs.replace(self._birth, server=presence.epoch))
        elif presence.epoch != self._server_epoch:
            raise PeerStartedAnew("the server started anew")
        elif presence.online != self._server_online:
            self._server_online = presence.online
            _log.warning("the server is %s", "back" if presence.online else "offline")
            raise _ServerMoved


def _mark_nothing(phase: str, began_s: float, ended_s: float) -> None:
    """Nobody keeps an account."""


class _Over(Exception):
    """The run of our states is over; we missed the end."""


class _ServerMoved(Exception):
    """The server went or came back, so what is waited for may have changed."""
