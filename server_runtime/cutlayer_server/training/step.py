"""What the server does with batches: decode, update the server-side model, answer."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.bundles.bundle import Client
from cutlayer_core.codecs import Received, Sent
from cutlayer_core.errors import RemoteError
from cutlayer_core.record.phases import Phases
from cutlayer_core.samples.draws import seed_of
from cutlayer_core.schedules import Mode
from cutlayer_core.trial.aggregation import Epsl, Parallel
from cutlayer_core.trial.trial import Trial
from cutlayer_core.wire.messages import Gradient, Lacking, Message, Shared, SharedRows, Smashed
from cutlayer_server.fleet.fleet import Fleet
from cutlayer_server.model.last_layer import Sharing
from cutlayer_server.model.server_model import Part, StepResult
from cutlayer_server.model.server_models import ServerModels
from cutlayer_server.training.validation import smashed_data_of

__all__ = ["Batch", "Trained", "TrainingStep"]

_OWN, _COMMON = 2, 4
"""Purpose numbers of seeds: for the gradient to one device, and to all."""


class Batch(NamedTuple):
    """Decoded smashed data, and the message that they came in."""

    device: str
    mode: Mode
    header: Smashed
    received: Received
    labels: NDArray[np.uint16]
    payload_bytes: int
    """Size as it travelled in this epoch; 0 for data that the server had kept."""


class Trained(NamedTuple):
    """A batch after the update, and what was sent for it; what all share counts for the first batch."""

    batch: Batch
    result: StepResult
    answers: Sequence[Sent | None]

    @property
    def down_bytes(self) -> int:
        """Payloads as they travelled."""
        return sum(len(each.payload) for each in self.answers if each)

    @property
    def down_coded_bytes(self) -> int:
        """Payloads before the lossless stage."""
        return sum(len(each.coded) for each in self.answers if each)


class TrainingStep:
    """Trains the server-side model on batches and sends cut gradients.

    Args:
        trial: codecs, seeds, aggregation.
        client: what smashed data look like.
        fleet: to whom answers go.
        models: trained in place.
        samples: how many each device has, which determines its share of a joint update.
        phases: where the time goes.
    """

    def __init__(
        self,
        trial: Trial,
        client: Client,
        fleet: Fleet,
        models: ServerModels,
        samples: Mapping[str, int],
        phases: Phases,
    ) -> None:
        self._trial, self._client, self._fleet, self._models = trial, client, fleet, models
        self._samples, self._phases = samples, phases
        self._shared: _ToAll | None = None

    @property
    def is_joint(self) -> bool:
        """Whether one update takes a batch of each device."""
        return isinstance(self._trial.aggregation, Parallel | Epsl)

    def decode(self, device: str, mode: Mode, message: Message) -> Batch:
        """Decode smashed data from their message. Raises `RemoteError` if they do not fit this trial."""
        header, steady = message.header, mode is not Mode.EXCHANGE
        assert isinstance(header, Smashed)
        with self._phases("decode"):
            received, labels = smashed_data_of(
                self._trial, self._client, device, header, message.payload, steady=steady
            )
        travelled = 0 if mode is Mode.SILENT else len(message.payload)
        return Batch(device, mode, header, received, labels, travelled)

    def train(self, batches: list[Batch], *, keep: bool) -> list[Trained]:
        """Update once on these batches, and answer each one that exchanges.

        Args:
            batches: one batch of one device, or one of each device.
            keep: whether devices should save their state to disk.

        Raises:
            RemoteError: training cannot go on from them; nothing was updated.
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
        to_all = None if update.shared is None or not asking else self._tell_all(update.shared, asking[0].header)
        trained = []
        for each, result in zip(batches, update.results, strict=True):
            answers = [self._answer(each, result, to_all, keep=keep)] if each in asking else []
            if to_all and each is asking[0]:
                answers.append(to_all.sent)
            trained.append(Trained(each, result, answers))
        return trained

    def repeat(self, device: str, lacking: Lacking) -> None:
        """Resend the last message to all to a device that lacks it. Raises `RemoteError` if it asks for another one."""
        if self._shared is None or self._shared.rows.number != lacking.number:
            error = RemoteError(f"{device} lacks message {lacking.number} to all, which is not the last one")
            error.device = device
            raise error
        self._fleet.say(device, Shared(), self._shared.sent.payload)

    def _shares(self, batches: list[Batch]) -> list[float]:
        total = sum(self._samples[each.device] for each in batches)
        return [self._samples[each.device] / total for each in batches]

    def _sharing(self) -> Sharing | None:
        settings = self._trial.aggregation
        return Sharing(settings.phi, settings.point) if isinstance(settings, Epsl) and settings.phi else None

    def _seed(self, device: str, header: Smashed, purpose: int) -> int:
        trial = self._trial
        if not trial.codec.down.draws:
            return 0
        return seed_of(trial.seeds.data, trial.devices.index(device), header.epoch, header.step, purpose)

    def _tell_all(self, gradient: NDArray[np.float32], header: Smashed) -> "_ToAll":
        """Send the part of the gradient that devices share, once."""
        with self._phases("encode"):
            sent = self._trial.codec.encode_shared(gradient, self._seed(self._trial.devices[0], header, _COMMON))
        with self._phases("send"):
            number = self._fleet.endpoint.broadcasts.publish(Shared(), sent.payload)
        self._shared = _ToAll(SharedRows(number, sent.tensor), sent)
        return self._shared

    def _answer(self, batch: Batch, result: StepResult, to_all: "_ToAll | None", *, keep: bool) -> Sent | None:
        """Send a device the part of the cut gradient that is its alone, which may be empty."""
        header, sent = batch.header, None
        if len(result.gradient):
            with self._phases("encode"):
                seed = self._seed(batch.device, header, _OWN)
                first = header.tensor.shape[0] - len(result.gradient)
                sent = self._trial.codec.encode_gradient(result.gradient, batch.received, seed, first)
        with self._phases("send"):
            reply = Gradient(
                epoch=header.epoch,
                step=header.step,
                tensor=sent.tensor if sent else None,
                loss=result.loss,
                shared=to_all.rows if to_all else None,
                spent_s=max(self._fleet.endpoint.conversations.waited_s(batch.device), 0.0),
                keep=keep,
            )
            self._fleet.say(batch.device, reply, sent.payload if sent else b"")
        return sent


class _ToAll(NamedTuple):
    """The last message to all."""

    rows: SharedRows
    sent: Sent


def _explained(batches: list[Batch], error: RemoteError) -> RemoteError:
    """The error with where it happened, and whose fault it may be.

    Whose fault it is shows when the others go on without this device: if they fare no better, it was nobody's.
    """
    device = error.device or (batches[0].device if len(batches) == 1 else "")
    where = f"in step {batches[0].header.step} of epoch {batches[0].header.epoch + 1}"
    explained = RemoteError(
        f"{device + ': ' if device else ''}{where} {error}; if it is no other's fault, lower the learning rates"
    )
    explained.device = device
    return explained
