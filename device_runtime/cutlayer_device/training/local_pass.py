"""One pass of a board over its samples: everything that it does in split learning."""

import itertools
import logging
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.codecs import Payload, Sent
from cutlayer_core.errors import MessageError
from cutlayer_core.record.phases import Phases
from cutlayer_core.samples import data
from cutlayer_core.samples.draws import seed_of
from cutlayer_core.schedules import Mode
from cutlayer_core.wire.messages import Assignment, Begin, End, Gradient, Lacking, Position, Shared, Smashed, Weights
from cutlayer_core.wire.weights import decode_weights, encode_weights
from cutlayer_device.training.board import Board
from cutlayer_device.training.board_state import BoardState
from cutlayer_device.training.server_link import ServerLink, TrialFailed

__all__ = ["LocalPass"]

_log = logging.getLogger(__name__)


class LocalPass:
    """One pass, from `Begin` to the weights that the board returns.

    While the answer to a batch is under way, the next batch is loaded; if no answer is needed, it is also forwarded.

    Args:
        board: trains.
        state: of the training; changes with every answer.
        server: answers.
        phases: where the time goes.
        assignment: what the board must obey.
        begin: the epoch, the mode, and the step to start from.
    """

    def __init__(
        self, board: Board, state: BoardState, server: ServerLink, phases: Phases, assignment: Assignment, begin: Begin
    ) -> None:
        self._board, self._state, self._server, self._phases = board, state, server, phases
        self._assignment, self._begin = assignment, begin
        self._exchanges = begin.mode is Mode.EXCHANGE
        self._seed = (assignment.seed, assignment.client, begin.epoch)

    def run(self, weights: Payload) -> None:
        """Send every batch, and then the weights.

        Args:
            weights: the client weights to begin with, encoded; empty if the board has them.

        Raises:
            TrialFailed: the server ended the trial in the middle of it.
            CutlayerError: as from `ServerLink.hear`, or an answer cannot be decoded.
            OSError: a state cannot be kept.
        """
        engine, steps = self._board.engine, self._begin.steps
        if weights:
            engine.load(decode_weights(weights, like=engine.weights()))
        batches = itertools.islice(self._batches(), steps, None)
        batch = self._load(batches)
        while batch is not None:
            sent = self._send(batch, steps)
            steps += 1
            batch = self._load(batches)
            if self._exchanges:
                self._update(Position(self._begin.epoch, steps), sent)
            else:
                self._pause()
        usage = self._board.profiler.report() if self._board.profiler else None
        end = Weights(epoch=self._begin.epoch, steps=steps, phases_s=self._phases.take(), usage=usage)
        self._server.say(end, encode_weights(engine.weights()) if self._exchanges else b"")
        _log.info("epoch %d: %d steps", self._begin.epoch + 1, steps)

    def _batches(self) -> Iterator[data.Batch]:
        client, assignment = self._board.bundle.manifest.client, self._assignment
        prepare = data.Preparation(client.input, client.mean, client.std)
        return data.batches(self._board.samples, prepare, assignment.batch_size, self._seed, assignment.augmentation)

    def _load(self, batches: Iterator[data.Batch]) -> data.Batch | None:
        with self._phases("load"):
            return next(batches, None)

    def _send(self, batch: data.Batch, step: int) -> Sent:
        """The first half of a step: forward, encode and send; returns what was sent."""
        engine, exchanges = self._board.engine, self._exchanges
        with self._phases("forward"):
            z = engine.forward(batch.x, seed_of(*self._seed, step)) if exchanges else engine.infer(batch.x)
        with self._phases("encode"):
            seed = seed_of(*self._seed, step, 1)
            sent = self._assignment.codecs.encode(z, seed, self._state.memory, steady=not exchanges)
        with self._phases("send"):
            labels = batch.y.astype("<u2").tobytes()
            smashed = Smashed(epoch=self._begin.epoch, step=step, tensor=sent.tensor, labels=labels)
            self._server.say(smashed, sent.payload)
        return sent

    def _pause(self) -> None:
        """Let the network catch up, so that what waits to be sent does not fill the memory."""
        with self._phases("network"):
            message = self._server.await_room()
        if message is not None:
            assert isinstance(message.header, End), "the session lets nothing else through"
            self._break_off(message.header)

    def _update(self, position: Position, sent: Sent) -> None:
        """The second half of a step: wait for the answer and update; the device then stands at ``position``."""
        phases = self._phases
        began = time.monotonic()
        reply = self._server.hear()
        ended = time.monotonic()
        phases.mark("wait", began, ended)
        if isinstance(reply.header, End):
            self._break_off(reply.header)
        assert isinstance(reply.header, Gradient), "the session lets nothing else through"
        shared = self._shared(reply.header, sent)
        server_s = min(reply.header.spent_s, ended - began)
        phases.add({"server": server_s, "network": ended - began - server_s})
        with phases("decode"):
            gradient = self._assignment.codecs.decode_gradient(reply.header.tensor, reply.payload, sent, shared)
        with phases("backward"):
            self._board.engine.backward(gradient, self._assignment.learning_rate)
        self._state.memory = sent.memory
        if reply.header.keep:
            with phases("keep"):
                self._state.keep(position)

    def _shared(self, header: Gradient, sent: Sent) -> NDArray[np.float32] | None:
        """The first samples of the gradient, if all devices share them; None if this gradient has no shared samples."""
        if header.shared is None:
            return None
        number = header.shared.number
        with self._phases("network"):
            message = self._server.await_broadcast(number)
        if message is None:
            with self._phases("network"):
                self._server.say(Lacking(number=number))
                message = self._server.hear()
            if isinstance(message.header, End):
                self._break_off(message.header)
        if not isinstance(message.header, Shared):
            raise MessageError(f"the message to all of number {number} is a {type(message.header).__name__}")
        with self._phases("decode"):
            return self._assignment.codecs.decode_shared(header.shared.tensor, message.payload, sent.tensor)

    def _break_off(self, end: End) -> None:
        raise TrialFailed(self._server.end(end))
