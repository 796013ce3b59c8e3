"""The board's side of a trial: join, train when told to, leave."""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cutlayer import data, topics
from cutlayer.bundle import Bundle
from cutlayer.codecs import Codec, Payload
from cutlayer.endpoint import Endpoint, new_epoch, will_of
from cutlayer.errors import CodecError, CutlayerError, PeerLost
from cutlayer.messages import (
    Assignment,
    Begin,
    End,
    Gradient,
    Message,
    Presence,
    Smashed,
    Tensor,
    Weights,
    decode_weights,
    encode_weights,
)
from cutlayer.phases import Phases
from cutlayer.schedules import Mode
from cutlayer.session import Role
from cutlayer.transports import Transport
from cutlayer_device.engines import Engine, load_engine
from cutlayer_device.state import read_state, write_state

__all__ = ["Agent", "TrialFailed", "birth_of"]

_FOREVER = float("inf")
_PATIENCE_S = 60.0
"""How long an offline server is waited for before it said what its patience is."""
_log = logging.getLogger(__name__)


class TrialFailed(CutlayerError):
    """The server ended the trial because something went wrong, or would not have this device."""


def birth_of(bundle: Bundle, trial: str, device: str, samples: int) -> Presence:
    """What a device announces itself with."""
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
        transport: connected, with the last will that belongs to ``birth``.
        threads: threads that the engine may use, 0 for as many as it likes.
        state_path: where the engine's state is kept, read now if it is there and written after every epoch.

    Raises:
        UserError: the bundle may not train.
    """

    def __init__(
        self,
        bundle: Bundle,
        samples: data.Samples,
        birth: Presence,
        transport: Transport,
        threads: int = 0,
        state_path: Path | None = None,
    ) -> None:
        bundle.require_certificate()
        client = bundle.manifest.client
        self._birth, self._transport, self._samples = birth, transport, samples
        self._prepare = data.Preparation(client.input, client.mean, client.std)
        self._engine: Engine = load_engine(bundle, threads)
        self._fingerprint, self._state_path = client.fingerprint, state_path
        if state_path is not None and state_path.exists():
            self._engine.restore(read_state(state_path, self._engine.state(), client.fingerprint))
        self._endpoint = Endpoint(Role.DEVICE, birth.trial, transport, birth.epoch, self._meet_server)
        self._phases = Phases()
        self._patience_s = _PATIENCE_S
        self._server_epoch: int | None = None
        self._server_online = True
        self._joined, self._leaving = False, False

    def run(self) -> str:
        """Take part until the server ends the trial; returns the server's reason.

        Raises:
            PeerLost: the server died, or fell silent while it owed an answer.
            TrialFailed: the server gave up, or refused this device.
            RemoteError: the server broke the protocol.
        """
        trial, device = self._birth.trial, self._birth.device
        state = topics.state(trial, device)
        self._endpoint.open(device)
        self._endpoint.claim(state, self._birth)
        self._transport.subscribe(topics.down(trial, device))
        self._transport.subscribe(topics.control(trial))
        _log.info("waiting for the server of the trial %r", trial)
        try:
            return self._take_part()
        finally:
            self._transport.publish_retained(*will_of(state, self._birth))

    def _take_part(self) -> str:
        assignment: Assignment | None = None
        while True:
            message = self._hear(_FOREVER)
            match message.header:
                case Assignment() as assignment:
                    self._joined, self._patience_s = True, assignment.patience_s
                    _log.info("joined the trial %r as client %d", self._birth.trial, assignment.client)
                case Begin() as begin if assignment is not None:
                    self._train_epoch(assignment, begin, message.payload)
                case End() as end:
                    return self._leave(end)

    def _train_epoch(self, assignment: Assignment, begin: Begin, weights: Payload) -> None:
        """One pass over this device's samples: all that a board does in split learning."""
        engine, phases, steps = self._engine, self._phases, 0
        engine.load(decode_weights(weights, like=engine.weights()))
        seed = (assignment.seed, assignment.client, begin.epoch)
        frozen = begin.mode is not Mode.EXCHANGE
        for x, labels in data.batches(
            self._samples, self._prepare, assignment.batch_size, seed, assignment.augmentation
        ):
            with phases("forward"):
                z = engine.infer(x) if frozen else engine.forward(x, _dropout_seed(*seed, steps))
            with phases("encode"):
                payload, params = assignment.up.encode(z)
                tensor = Tensor(assignment.up.id, params, z.shape)
            with phases("send"):
                label_bytes = labels.astype("<u2").tobytes()
                self._say(Smashed(epoch=begin.epoch, step=steps, tensor=tensor, labels=label_bytes), payload)
            steps += 1
            if begin.mode is Mode.EXCHANGE:
                with phases("wait"):
                    reply = self._hear(assignment.patience_s)
                if isinstance(reply.header, End):
                    self._leave(reply.header)
                with phases("decode"):
                    gradient = _gradient(assignment.down, reply, z.shape)
                with phases("backward"):
                    engine.backward(gradient, assignment.learning_rate)
        end = Weights(epoch=begin.epoch, steps=steps, phases_s=phases.take())
        self._say(end, encode_weights(engine.weights()))
        if self._state_path is not None:
            write_state(self._state_path, engine.state(), self._fingerprint)
        _log.info("epoch %d: %d steps", begin.epoch + 1, steps)

    def _say(self, header: Smashed | Weights, payload: Payload) -> None:
        self._endpoint.send(self._birth.device, header, payload)

    def _hear(self, patience_s: float) -> Message:
        """The server's next message; while the server is offline, no longer than the trial's patience is waited."""
        while True:
            try:
                limit = patience_s if self._server_online else min(patience_s, self._patience_s)
                return self._endpoint.expect(self._birth.device, limit)
            except _ServerMoved:
                continue
            except PeerLost as error:
                if self._server_online:
                    raise
                raise PeerLost("the server left without ending the trial") from error

    def _leave(self, end: End) -> str:
        self._leaving = True
        self._endpoint.drain(timeout_s=2.0)
        if not end.ok:
            raise TrialFailed(end.reason)
        return end.reason

    def _meet_server(self, presence: Presence) -> None:
        """Notice when the server goes and comes back; what an earlier server left behind means nothing."""
        if self._leaving or (presence.epoch != self._server_epoch and not presence.online):
            return
        # A broker may hand over the birth after the first messages, so an unknown server is no other server.
        if self._joined and self._server_epoch not in (None, presence.epoch):
            raise PeerLost("the server started anew: start this device again")
        self._server_epoch = presence.epoch
        if presence.online != self._server_online:
            self._server_online = presence.online
            _log.warning("the server is %s", "back" if presence.online else "offline")
            raise _ServerMoved


class _ServerMoved(Exception):
    """The server went or came back, so what is waited for may have changed."""


def _dropout_seed(*numbers: int) -> int:
    """A whole number from 0 to 2**31 - 1 for one step, other for every other step of the trial."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0]) >> 1


def _gradient(codec: Codec, reply: Message, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The cut gradient that answers smashed data of ``shape``. Raises `CodecError` if it does not."""
    assert isinstance(reply.header, Gradient), "the session lets nothing else through"
    tensor = reply.header.tensor
    if (tensor.codec, tensor.shape) != (codec.id, shape):
        raise CodecError(f"a gradient of {tensor.codec}{tensor.shape} answers smashed data of {codec.id}{shape}")
    return codec.decode(reply.payload, tensor.params, shape)
