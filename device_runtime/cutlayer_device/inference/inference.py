"""Classify samples with a whole model on the board, or with its first part here and the rest on a server."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.bundles.bundle import Bundle
from cutlayer_core.codecs import Codecs
from cutlayer_core.errors import CutlayerError, MessageError, UserError
from cutlayer_core.samples import data
from cutlayer_core.trial.recipe import WHOLE
from cutlayer_core.wire import topics
from cutlayer_core.wire.endpoint import Endpoint
from cutlayer_core.wire.messages import Assignment, End, Presence, Query, Scores, Serve
from cutlayer_core.wire.session import Role
from cutlayer_core.wire.transports import Transport
from cutlayer_core.wire.weights import decode_weights
from cutlayer_device.engines import load_engine

__all__ = ["Classifier", "LocalClassifier", "SplitClassifier", "classify"]

_FOREVER = float("inf")


class Classifier(Protocol):
    """Something that scores prepared samples."""

    def __call__(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Map samples (B, *input) to scores (B, classes)."""


def classify(
    classifier: Classifier, bundle: Bundle, samples: NDArray[Any], batch_size: int
) -> Iterator[NDArray[np.float32]]:
    """Probabilities (classes,) of each stored sample, in order."""
    client = bundle.manifest.client
    prepare = data.Preparation(client.input, client.mean, client.std)
    for start in range(0, len(samples), batch_size):
        scores = classifier(prepare(samples[start : start + batch_size])).astype(np.float64)
        shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
        yield from (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)


class LocalClassifier:
    """A whole model on the board.

    Raises:
        UserError: the bundle may not be used, or holds only part of a model.
    """

    def __init__(self, bundle: Bundle, threads: int = 0) -> None:
        bundle.require_certificate()
        client = bundle.manifest.client
        if client.cut != WHOLE:
            raise UserError(
                f"the bundle holds the part before {client.cut!r} only: give --broker to have a server do the rest, "
                "or export the whole model with --cut none"
            )
        if len(client.smashed.shape) != 1:
            raise UserError(f"the model gives {client.smashed.shape} a sample, which is no list of class scores")
        self._engine = load_engine(bundle, threads)

    def __call__(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """See `Classifier`."""
        return self._engine.infer(x)


class SplitClassifier:
    """The first part of a model on the board, the rest on a server that `cutlayer serve --infer` runs.

    Args:
        bundle: of the trial that the server serves.
        birth: from `agent.birth_of`.
        transport: connected, with the last will that belongs to ``birth``.
        patience_s: how long the server may be silent.

    Raises:
        CutlayerError: the server refused this device, or fell silent.
    """

    def __init__(
        self, bundle: Bundle, birth: Presence, transport: Transport, patience_s: float, threads: int = 0
    ) -> None:
        bundle.require_certificate()
        self._engine, self._name, self._patience_s = load_engine(bundle, threads), birth.device, patience_s
        self._birth, self._step = birth, 0
        self._endpoint = Endpoint(Role.DEVICE, birth.trial, transport, birth.epoch, _require_answers)
        self._endpoint.conversations.open(self._name)
        self._endpoint.claim(topics.state(birth.trial, self._name), birth)
        transport.subscribe(topics.down(birth.trial, self._name))
        transport.subscribe(topics.control(birth.trial))
        try:
            self._codecs = self._join()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Say goodbye."""
        self._endpoint.presence.leave(self._birth)

    def __call__(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """See `Classifier`. Raises `PeerLost` if the server goes away, `MessageError` if it answers nonsense."""
        if not len(x):
            return np.empty((0, 1), np.float32)
        z = self._engine.infer(x)
        sent = self._codecs.encode(z, steady=True)
        self._endpoint.conversations.send(self._name, Query(step=self._step, tensor=sent.tensor), sent.payload)
        self._step += 1
        reply = self._endpoint.expect(self._name, self._patience_s)
        if isinstance(reply.header, End):
            raise CutlayerError(reply.header.reason)
        assert isinstance(reply.header, Scores), "the session lets nothing else through"
        shape = reply.header.shape
        if shape[0] != len(x) or len(reply.payload) != 4 * shape[0] * shape[1]:
            raise MessageError(f"scores of shape {shape} in {len(reply.payload)} bytes answer {len(x)} samples")
        return np.frombuffer(reply.payload, "<f4").reshape(shape)

    def _join(self) -> Codecs:
        """Wait for the server, load the trained weights that it sends, and return its codecs."""
        codecs: Codecs | None = None
        while True:
            message = self._endpoint.expect(self._name, _FOREVER if codecs is None else self._patience_s)
            match message.header:
                case Assignment() as assignment:
                    codecs = assignment.codecs
                case Serve() if codecs is not None:
                    self._engine.load(decode_weights(message.payload, like=self._engine.weights()))
                    return codecs
                case End() as end:
                    raise CutlayerError(end.reason)
                case _:
                    raise MessageError(f"the server sent {type(message.header).__name__} before it serves")


def _require_answers(server: Presence) -> None:
    if server.online and not server.serves:
        raise CutlayerError("the server trains and does not answer queries: start it with --infer")
