"""What the server does with batches: decode, update the server-side model, answer."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutlayer.aggregation import Epsl, Parallel
from cutlayer.bundle import Client
from cutlayer.codecs import Payload, Received, Tensor
from cutlayer.draws import seed_of
from cutlayer.errors import RemoteError
from cutlayer.messages import Gradient, Lacking, Message, Shared, SharedRows, Smashed
from cutlayer.phases import Phases
from cutlayer.schedules import Mode
from cutlayer.trial import Trial
from cutlayer_server.fleet import Fleet
from cutlayer_server.intake import smashed_data_of
from cutlayer_server.last_layer import Sharing
from cutlayer_server.server_model import Part, StepResult
from cutlayer_server.server_models import ServerModels

__all__ = ["Batch", "Trained", "Updates"]

_OWN, _COMMON = 2, 4
"""Purposes of seeds: of the gradient for one device, and for all."""


class Batch(NamedTuple):
    """Smashed data that have been decoded, and what they came in."""

    device: str
    mode: Mode
    header: Smashed
    received: Received
    labels: NDArray[np.uint16]
    payload_bytes: int
    """As they travelled in this epoch; 0 for what the server had kept."""


class Trained(NamedTuple):
    """A batch after the update; ``down_bytes`` is the payload of its answer, what all share counted with the first."""

    batch: Batch
    result: StepResult
    down_bytes: int


class Updates:
    """Trains the server-side model on batches and sends cut gradients.

    Args:
        trial: codecs, seeds, aggregation.
        client: what smashed data look like.
        fleet: to whom answers go.
        models: trained in place.
        phases: where the time goes.
    """

    def __init__(self, trial: Trial, client: Client, fleet: Fleet, models: ServerModels, phases: Phases) -> None:
        self._trial, self._client, self._fleet, self._models, self._phases = trial, client, fleet, models, phases
        self.joint = isinstance(trial.aggregation, Parallel | Epsl)
        """Whether one update is made of a batch of each device."""
        self.samples: Mapping[str, int] = {}
        """How many each device has; its share of a joint update."""
        self._shared: Message | None = None
        """What the last message to all was."""

    def decode(self, device: str, mode: Mode, message: Message) -> Batch:
        """Smashed data from their message. Raises `RemoteError` if they are not this trial's."""
        header, steady = message.header, mode is not Mode.EXCHANGE
        assert isinstance(header, Smashed)
        with self._phases("decode"):
            received, labels = smashed_data_of(
                self._trial, self._client, device, header, message.payload, steady=steady
            )
        travelled = 0 if mode is Mode.SILENT else len(message.payload)
        return Batch(device, mode, header, received, labels, travelled)

    def train(self, batches: list[Batch], *, keep: bool) -> list[Trained]:
        """One update on these batches, and an answer to each that exchanges.

        Args:
            batches: of one device, or one of each.
            keep: whether devices shall put their state on their disks.

        Raises:
            RemoteError: the training cannot go on from them; nothing was updated.
        """
        shares = self._shares(batches)
        parts = [
            Part(each.device, each.received.values, each.labels, share)
            for each, share in zip(batches, shares, strict=True)
        ]
        with self._phases("train"):
            try:
                update = self._models.of(batches[0].device).step(parts, self._sharing())
            except RemoteError as error:
                raise _explained(batches, error) from error
        asking = [each for each in batches if each.mode is Mode.EXCHANGE]
        rows = None if update.shared is None or not asking else self._tell_all(update.shared, asking[0].header)
        first = 0 if update.shared is None else len(update.shared)
        trained, down_bytes = [], len(self._shared.payload) if rows and self._shared else 0
        for each, result in zip(batches, update.results, strict=True):
            if each.mode is Mode.EXCHANGE:
                down_bytes += self._answer(each, result, first, rows, keep=keep)
            trained.append(Trained(each, result, down_bytes))
            down_bytes = 0
        return trained

    def repeat(self, device: str, lacking: Lacking) -> None:
        """Send the last message to all to one that lacks it. Raises `RemoteError` if it speaks of another."""
        if self._shared is None or (header := self._shared.header) != Shared(epoch=lacking.epoch, step=lacking.step):
            error = RemoteError(
                f"{device} lacks shared rows of step {lacking.epoch}.{lacking.step}, which there are not"
            )
            error.device = device
            raise error
        self._fleet.say(device, header, self._shared.payload)

    def _shares(self, batches: list[Batch]) -> list[float]:
        total = sum(self.samples[each.device] for each in batches) if len(batches) > 1 else 0
        return [self.samples[each.device] / total if total else 1.0 for each in batches]

    def _sharing(self) -> Sharing | None:
        settings = self._trial.aggregation
        return Sharing(settings.phi, settings.point) if isinstance(settings, Epsl) and settings.phi else None

    def _seed(self, device: str, header: Smashed, purpose: int) -> int:
        trial = self._trial
        return seed_of(trial.seeds.data, trial.devices.index(device), header.epoch, header.step, purpose)

    def _tell_all(self, shared: NDArray[np.float32], header: Smashed) -> SharedRows:
        """Send what devices share, once."""
        with self._phases("encode"):
            sent = self._trial.codec.encode_shared(shared, self._seed(self._trial.devices[0], header, _COMMON))
        with self._phases("send"):
            said = Shared(epoch=header.epoch, step=header.step)
            self._shared = Message(said, sent.payload)
            number = self._fleet.endpoint.broadcast(said, sent.payload)
        return SharedRows(number, sent.tensor)

    def _answer(self, batch: Batch, result: StepResult, first: int, rows: SharedRows | None, *, keep: bool) -> int:
        """Send a device its cut gradient; returns the size of the payload."""
        header = batch.header
        tensor: Tensor | None = None
        payload: Payload = b""
        if len(result.gradient):
            with self._phases("encode"):
                seed = self._seed(batch.device, header, _OWN)
                sent = self._trial.codec.encode_gradient(result.gradient, batch.received, seed, first)
                tensor, payload = sent.tensor, sent.payload
        with self._phases("send"):
            spent_s = max(self._fleet.endpoint.waited_s(batch.device), 0.0)
            reply = Gradient(
                epoch=header.epoch,
                step=header.step,
                tensor=tensor,
                loss=result.loss,
                shared=rows,
                spent_s=spent_s,
                keep=keep,
            )
            self._fleet.say(batch.device, reply, payload)
        return len(payload)


def _explained(batches: list[Batch], error: RemoteError) -> RemoteError:
    """Where it happened, and whose fault it may be.

    Whose it is shows when the others go on without this device: if theirs is no better, it was nobody's.
    """
    device = error.device or (batches[0].device if len(batches) == 1 else "")
    where = f"in step {batches[0].header.step} of epoch {batches[0].header.epoch + 1}"
    explained = RemoteError(
        f"{device + ': ' if device else ''}{where} {error}; if it is no other's fault, lower the learning rates"
    )
    explained.device = device
    return explained
