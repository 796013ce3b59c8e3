"""What an epoch has done and cost so far, for the run record."""

from collections.abc import Mapping

from cutlayer_core.record.events import EpochDone, Step
from cutlayer_core.record.phases import Phases
from cutlayer_core.record.record import Record
from cutlayer_core.wire.endpoint import Endpoint
from cutlayer_server.model.server_model import Evaluation
from cutlayer_server.training.checkpoints import Totals
from cutlayer_server.training.step import Trained

__all__ = ["EpochTotals"]


class EpochTotals:
    """Counts one epoch at a time: its steps, seconds, bytes and phases.

    Args:
        record: where steps and epochs are written.
        endpoint: counts the bytes of all conversations.
        phases: where the server's time goes.
    """

    def __init__(self, record: Record, endpoint: Endpoint, phases: Phases) -> None:
        self._record, self._endpoint, self._phases = record, endpoint, phases
        self.steps: list[Step] = []
        """Steps of this epoch."""
        self._epoch, self._started_s, self._traffic = -1, 0.0, (0, 0)

    def open(self, epoch: int) -> None:
        """Begin counting an epoch."""
        self.steps, self._epoch = [], epoch
        self._started_s, self._traffic = self._record.now(), self._total()

    def go_on(self, epoch: int, totals: Totals) -> None:
        """Resume counting an epoch, of which ``totals`` are already counted."""
        self.open(epoch)
        self.steps = self._record.steps_of(epoch)
        self._started_s -= totals.spent_s
        self._traffic = self._traffic[0] - totals.up_bytes, self._traffic[1] - totals.down_bytes
        self._phases.add(totals.phases_s)

    def note(self, trained: Trained) -> None:
        """Record a step."""
        batch, result = trained.batch, trained.result
        step = Step(
            time_s=self._record.now(),
            epoch=batch.header.epoch,
            step=batch.header.step,
            device=batch.device,
            samples=len(batch.labels),
            loss=result.loss,
            correct=result.correct,
            up_payload_bytes=batch.payload_bytes,
            down_payload_bytes=trained.down_bytes,
            up_coded_bytes=len(batch.received.coded) if batch.payload_bytes else 0,
            down_coded_bytes=trained.down_coded_bytes,
            raw_payload_bytes=batch.received.values.nbytes,
        )
        self.steps.append(step)
        self._record.write(step)

    def so_far(self) -> Totals:
        """The totals so far, for a checkpoint."""
        spent_s, up, down = self._spent()
        return Totals(self._record.count, spent_s, up, down, self._phases.so_far())

    def stop(self) -> Totals:
        """End the training of this epoch; the time of what follows does not count."""
        spent_s, up, down = self._spent()
        return Totals(self._record.count, spent_s, up, down, self._phases.take())

    def close(
        self,
        totals: Totals,
        loss: float,
        test: Evaluation,
        modes: tuple[str, Mapping[str, str]],
        missing: tuple[str, ...],
    ) -> EpochDone:
        """Record the epoch as it stood when it was stopped."""
        samples = sum(step.samples for step in self.steps)
        done = EpochDone(
            time_s=self._record.now(),
            epoch=self._epoch,
            mode=modes[0],
            modes=dict(modes[1]),
            loss=loss,
            accuracy=sum(step.correct for step in self.steps) / max(samples, 1),
            test_loss=test.loss,
            test_accuracy=test.accuracy,
            steps=len(self.steps),
            duration_s=totals.spent_s,
            up_bytes=totals.up_bytes,
            down_bytes=totals.down_bytes,
            phases_s=totals.phases_s,
            missing=missing,
        )
        self._record.write(done)
        return done

    def _spent(self) -> tuple[float, int, int]:
        """Seconds, and bytes up and down, in this epoch."""
        up, down = self._total()
        return self._record.now() - self._started_s, up - self._traffic[0], down - self._traffic[1]

    def _total(self) -> tuple[int, int]:
        """Bytes up and down since the start, over all devices."""
        return self._endpoint.transport.received_bytes.total(), self._endpoint.transport.sent_bytes.total()
