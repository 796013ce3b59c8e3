"""The server's side of split inference: boards send smashed data, and get the model's scores back."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from cutlayer_core.errors import CodecError, LocalProtocolError, RemoteError, UserError
from cutlayer_core.trial.trial import Trial
from cutlayer_core.wire import topics
from cutlayer_core.wire.endpoint import Endpoint
from cutlayer_core.wire.messages import End, Message, Presence, Query, Scores, Serve
from cutlayer_core.wire.session import Role
from cutlayer_core.wire.transports import Transport
from cutlayer_core.wire.weights import encode_weights
from cutlayer_cut import client_of, cut_model
from cutlayer_server.fleet.fleet import assignment_of
from cutlayer_server.model.processor import CPU
from cutlayer_server.model.server_model import client_weights

__all__ = ["InferenceService"]

_MAX_BATCH = 4096
_log = logging.getLogger(__name__)


class InferenceService:
    """Answers the queries of a trial's devices, which come and go.

    Args:
        trial: names devices, model, cut and codec.
        weights: the trained model, as a run record holds it.
        place: where the server-side model runs.

    Raises:
        UserError: as `cut_model` does.
    """

    def __init__(self, trial: Trial, weights: Path, place: torch.device = CPU) -> None:
        self._trial, self._place = trial, place
        initial = cut_model(trial.recipe)  # the board has the constants of the export
        self._client, _ = client_of(trial.recipe, initial)
        trained = msgspec.structs.replace(trial.model, weights=str(weights))
        halves = cut_model(msgspec.structs.replace(trial.recipe, model=trained))
        names = [*self._client.params, *self._client.buffers]
        self._weights = encode_weights(client_weights(halves.client, names))
        self._half = halves.server.to(place).eval()
        self._check_scores()
        self._online: dict[str, int] = {}
        self._arrived: list[Presence] = []
        self.answered = 0
        """Number of samples classified."""

    def run(self, birth: Presence, transport: Transport, going: Callable[[], bool] = lambda: True) -> None:
        """Answer until ``going`` returns false, or Ctrl-C.

        Raises:
            PeerLost: another server leads a trial of this name.
        """
        endpoint = Endpoint(Role.SERVER, self._trial.name, transport, birth.epoch, self._arrived.append)
        endpoint.claim(topics.control(self._trial.name), birth)
        transport.subscribe(topics.every_up(self._trial.name))
        transport.subscribe(topics.every_state(self._trial.name))
        try:
            while going():
                self._pump(endpoint)
                for presence in self._arrived:
                    self._meet(endpoint, presence)
                self._arrived.clear()
                for device in list(self._online):
                    self._answer(endpoint, device)
        finally:
            for device in self._online:
                endpoint.conversations.send(device, End(reason="the server was stopped"))
            endpoint.drain(timeout_s=2.0)
            endpoint.presence.leave(birth)

    def _pump(self, endpoint: Endpoint) -> None:
        """Take what arrives; a device that breaks the protocol is dismissed, and the others are still served."""
        try:
            endpoint.pump(0.5)
        except RemoteError as error:
            self._dismiss(endpoint, error.device, str(error))

    def _dismiss(self, endpoint: Endpoint, device: str, reason: str) -> None:
        _log.warning("dismissed %s: %s", device, reason)
        self._online.pop(device, None)
        with contextlib.suppress(KeyError, LocalProtocolError):  # it may be gone, or already told
            endpoint.conversations.send(device, End(reason=reason, ok=False))
        endpoint.conversations.close(device)

    def _meet(self, endpoint: Endpoint, presence: Presence) -> None:
        device = presence.device
        if not presence.online:
            if self._online.get(device) == presence.epoch:
                del self._online[device]
                endpoint.conversations.close(device)
                _log.info("%s left", device)
            return
        if self._online.get(device) == presence.epoch:
            return
        endpoint.conversations.open(device, presence.epoch)
        if device not in self._trial.devices or presence.bundle != self._client.fingerprint:
            why = "its name is not in the trial file" if device not in self._trial.devices else "its bundle is another"
            self._dismiss(endpoint, device, f"{device} was refused: {why}")
            return
        self._online[device] = presence.epoch
        _log.info("%s joined", device)
        endpoint.conversations.send(device, assignment_of(self._trial, device))
        endpoint.conversations.send(device, Serve(), self._weights)

    def _answer(self, endpoint: Endpoint, device: str) -> None:
        while device in self._online and (message := endpoint.conversations.poll(device)) is not None:
            assert isinstance(message.header, Query), "the session lets nothing else through"
            try:
                scores = self._scores(message.header, message)
            except (RemoteError, RuntimeError) as error:
                self._dismiss(endpoint, device, str(error).split("\n", 1)[0])
                return
            self.answered += len(scores)
            header = Scores(step=message.header.step, shape=(scores.shape[0], scores.shape[1]))
            endpoint.conversations.send(device, header, scores.numpy().astype("<f4").tobytes())

    def _check_scores(self) -> None:
        with torch.inference_mode():
            scores = self._half(torch.zeros(2, *self._client.smashed.shape, device=self._place))
        if not isinstance(scores, Tensor) or scores.dim() != 2:
            raise UserError(f"model.factory: {self._client.factory} gives no class scores of shape (batch, classes)")

    def _scores(self, query: Query, message: Message) -> Tensor:
        """Scores for a query; its codec and shape are checked before anything is decoded."""
        tensor = query.tensor
        if tensor.shape[1:] != self._client.smashed.shape or tensor.shape[0] > _MAX_BATCH:
            wanted = (f"up to {_MAX_BATCH}", *self._client.smashed.shape)
            raise CodecError(f"a query of shape {tensor.shape}, expected {wanted}")
        smashed = self._trial.codec.decode(tensor, message.payload, steady=True).values
        with torch.inference_mode():
            scores: Tensor = self._half(torch.from_numpy(np.ascontiguousarray(smashed)).to(self._place))
        return scores.cpu()
