"""Where training begins or resumes, once the devices are gathered."""

from collections.abc import Container, Mapping

from cutlayer_core.errors import UserError
from cutlayer_core.record.events import Joined, Missed, Resumed, Started
from cutlayer_core.record.record import Record
from cutlayer_core.trial.trial import Trial
from cutlayer_core.wire.messages import Presence
from cutlayer_server.training.checkpoints import Checkpoint, Checkpoints
from cutlayer_server.training.epoch import ClientWeights, EpochProgress

__all__ = ["choose_checkpoint", "note_begin", "note_missing"]

_NOWHERE = EpochProgress(0, ClientWeights({}))


def choose_checkpoint(
    trial: Trial, births: dict[str, Presence], checkpoints: Checkpoints, record: Record
) -> Checkpoint | None:
    """The newest checkpoint from which all devices can resume; None to begin.

    If the trial does not need all its devices, one that cannot resume begins anew.

    Raises:
        CutlayerError: a device has lost the state that it needs.
        UserError: a device has another number of samples than when the run began.
    """
    checkpoint = checkpoints.newest_held_by({} if trial.min_devices else births, record.count)
    for name in trial.devices:
        if checkpoint is None:
            break
        if name in record.quarantined:
            checkpoint.leave_out(name)
        elif name not in births or not checkpoint.is_held_by(births[name]):
            checkpoint.forget(name)
    if checkpoint is not None:
        _check_samples(record.devices(), births)
    return checkpoint


def note_begin(
    record: Record, checkpoint: Checkpoint | None, births: Mapping[str, Presence], why: str, where: str
) -> None:
    """Record who begins, or where training resumes and who is new.

    Args:
        record: of the run.
        checkpoint: from which it resumes.
        births: of the devices.
        why: the reason for resuming.
        where: name of the processor that trains the server-side model.
    """
    known: Container[str] = record.devices() if checkpoint else {}
    samples = {name: birth.samples for name, birth in births.items()}
    if record.count:
        kept, progress = (checkpoint.totals.events, checkpoint.progress) if checkpoint else (0, _NOWHERE)
        done = progress.steps.total()
        record.write(Resumed(time_s=record.now(), kept=kept, epoch=progress.epoch, step=done, reason=why))
    if checkpoint is None:
        record.write(Started(time_s=record.now(), devices=samples, processor=where))
        return
    for name, number in samples.items():
        if name not in known:
            epoch = checkpoint.progress.epoch
            record.write(Joined(time_s=record.now(), epoch=epoch, device=name, samples=number))


def note_missing(record: Record, missing: tuple[str, ...], epoch: int) -> None:
    """Record which devices have not come."""
    for name in missing:
        record.write(Missed(time_s=record.now(), epoch=epoch, device=name, reason="it has not joined"))


def _check_samples(began: dict[str, int], births: dict[str, Presence]) -> None:
    for name, birth in births.items():
        if began.get(name, birth.samples) != birth.samples:
            raise UserError(
                f"{name} has {birth.samples} samples, it had {began[name]} when this run began: give it the same --data, "
                "or start the trial anew with another --run-dir"
            )
