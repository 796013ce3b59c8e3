"""The server's dealings with one device at a time: begin a pass, answer its batches, take its weights back."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer.bundle import Client
from cutlayer.codecs import Payload
from cutlayer.errors import CodecError, CutlayerError, RemoteError
from cutlayer.messages import Begin, Gradient, Message, Smashed, Tensor, Weights, decode_weights, encode_weights
from cutlayer.phases import Phases
from cutlayer.record import ClientPass, EpochDone, Record, Step
from cutlayer.schedules import Mode
from cutlayer.trial import Trial
from cutlayer_server.fleet import Fleet
from cutlayer_server.server_model import Evaluation, ServerModel, StepResult

__all__ = ["Arrays", "Trainer"]

Arrays = dict[str, NDArray[Any]]
_MAX_PHASES = 32


class Trainer:
    """Trains the server-side model with the devices of a fleet, and records what happens.

    Args:
        trial: codecs and batch size.
        client: what the client-side model is, hence which smashed data and weights are acceptable.
    """

    def __init__(self, trial: Trial, client: Client, fleet: Fleet, model: ServerModel, record: Record) -> None:
        self.devices = trial.devices
        self.samples: Counter[str] = Counter()
        """Samples received from each device in this epoch."""
        self._trial, self._client, self._fleet, self._model, self._record = trial, client, fleet, model, record
        self._phases = Phases()
        self._epoch, self._mode = -1, Mode.EXCHANGE
        self._steps: list[Step] = []
        self._started_s, self._traffic = 0.0, (0, 0)
        self._weights: Arrays = {}

    def start_epoch(self, epoch: int, mode: Mode) -> None:
        """From now on, passes belong to this epoch and mode."""
        self._epoch, self._mode, self._steps = epoch, mode, []
        self.samples.clear()
        self._started_s, self._traffic = self._record.now(), self._traffic_so_far()

    def end_epoch(self, evaluate: Callable[[], Evaluation]) -> EpochDone:
        """Close the books of the epoch, evaluate, and record both."""
        duration_s, (up, down) = self._record.now() - self._started_s, self._traffic_so_far()
        samples = sum(step.samples for step in self._steps)
        test = evaluate()
        _check_finite(test.loss, f"the test loss after epoch {self._epoch + 1}")
        done = EpochDone(
            time_s=self._record.now(),
            epoch=self._epoch,
            mode=self._mode.value,
            loss=sum(step.loss * step.samples for step in self._steps) / samples,
            accuracy=sum(step.correct for step in self._steps) / samples,
            test_loss=test.loss,
            test_accuracy=test.accuracy,
            steps=len(self._steps),
            duration_s=duration_s,
            up_bytes=up - self._traffic[0],
            down_bytes=down - self._traffic[1],
            phases_s=self._phases.take(),
        )
        self._record.write(done)
        return done

    def begin(self, device: str, weights: Arrays) -> None:
        """Tell a device to pass over its samples, starting from these client weights."""
        self._weights = weights
        self._fleet.say(device, Begin(epoch=self._epoch, mode=self._mode), encode_weights(weights))

    def hear(self, device: str) -> Message:
        """The device's next batch, or the end of its pass. Raises `PeerLost` as `Fleet.hear` does."""
        with self._phases("wait"):
            return self._fleet.hear(device)

    def train(self, device: str, message: Message) -> None:
        """Update the server-side model on one batch, and send the cut gradient if the mode wants it.

        Raises:
            RemoteError: smashed data or labels that do not fit the model.
        """
        header = message.header
        assert isinstance(header, Smashed)
        with self._phases("decode"):
            smashed, labels = self._decode(device, header, message.payload)
        with self._phases("train"):
            result = self._model.step(smashed, labels)
        _check_finite(result.loss, f"the training loss in step {header.step} of epoch {header.epoch + 1}")
        self.samples[device] += len(labels)
        payload: Payload = b""
        if self._mode is Mode.EXCHANGE:
            with self._phases("encode"):
                payload, params = self._trial.codec.down.encode(result.gradient)
            with self._phases("send"):
                tensor = Tensor(self._trial.codec.down.id, params, result.gradient.shape)
                reply = Gradient(epoch=header.epoch, step=header.step, tensor=tensor, loss=result.loss)
                self._fleet.say(device, reply, payload)
        self._note(device, header, len(message.payload), len(payload), result)

    def finish(self, device: str, message: Message) -> Arrays:
        """Take the client weights at the end of a pass. Raises `RemoteError` if they are not this client's."""
        header = message.header
        assert isinstance(header, Weights), "the session lets nothing else through"
        weights = decode_weights(message.payload, like=self._weights)
        if header.steps == 0:
            raise RemoteError(f"{device} ended its pass without sending a batch")
        if not all(np.isfinite(array).all() for array in weights.values()):
            raise RemoteError(f"{device} sent client weights that are not finite: lower the client's learning rate")
        phases = header.phases_s
        if len(phases) > _MAX_PHASES or not all(math.isfinite(spent) and spent >= 0 for spent in phases.values()):
            raise RemoteError(f"{device} sent times of its phases that cannot be")
        epoch, steps, phases_s = header.epoch, header.steps, header.phases_s
        done = ClientPass(time_s=self._record.now(), epoch=epoch, device=device, steps=steps, phases_s=phases_s)
        self._record.write(done)
        return weights

    def _decode(self, device: str, header: Smashed, payload: Payload) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
        """Bounds first: codec, shape and labels must be this trial's before anything is decoded."""
        codec, tensor = self._trial.codec.up, header.tensor
        if tensor.codec != codec.id:
            raise CodecError(f"{device} sent smashed data as {tensor.codec!r}, the trial uses {codec.id!r}")
        samples, shape = tensor.shape[0], tensor.shape[1:]
        if shape != self._client.smashed.shape or samples > self._trial.data.batch_size:
            wanted = (f"up to {self._trial.data.batch_size}", *self._client.smashed.shape)
            raise RemoteError(f"{device} sent smashed data of shape {tensor.shape}, expected {wanted}")
        if len(header.labels) != 2 * samples:
            raise RemoteError(f"{device} sent {len(header.labels)} bytes of labels for {samples} samples")
        smashed = codec.decode(payload, tensor.params, tensor.shape)
        if not np.isfinite(smashed).all():
            raise RemoteError(f"{device} sent smashed data that are not finite: lower the client's learning rate")
        return smashed, np.frombuffer(header.labels, "<u2")

    def _note(self, device: str, header: Smashed, up_bytes: int, down_bytes: int, result: StepResult) -> None:
        step = Step(
            time_s=self._record.now(),
            epoch=header.epoch,
            step=header.step,
            device=device,
            samples=header.tensor.shape[0],
            loss=result.loss,
            correct=result.correct,
            up_payload_bytes=up_bytes,
            down_payload_bytes=down_bytes,
            raw_payload_bytes=4 * math.prod(header.tensor.shape),
        )
        self._steps.append(step)
        self._record.write(step)

    def _traffic_so_far(self) -> tuple[int, int]:
        """Bytes up and down since the start, over all devices."""
        endpoint = self._fleet.endpoint
        return endpoint.received_bytes.total(), endpoint.sent_bytes.total()


def _check_finite(loss: float, what: str) -> None:
    if not math.isfinite(loss):
        raise CutlayerError(f"{what} is {loss}: lower the learning rates")
