"""A trial from the server's side, from beginning to end."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from cutlayer_core.errors import CutlayerError, PeerLost, PeerStartedAnew, RemoteError
from cutlayer_core.files import swap_number
from cutlayer_core.record.events import Ended, Quarantined
from cutlayer_core.record.record import Record, Summary
from cutlayer_core.samples import data
from cutlayer_core.trial.aggregation import SplitFed
from cutlayer_core.trial.trial import Trial
from cutlayer_core.wire import topics
from cutlayer_core.wire.messages import Presence
from cutlayer_core.wire.presence import new_epoch, will_of
from cutlayer_core.wire.transports import LastWill, Transport
from cutlayer_cut import client_of, cut_model
from cutlayer_server.fleet.fleet import Fleet
from cutlayer_server.model.processor import CPU, name_of
from cutlayer_server.model.server_models import ServerModels
from cutlayer_server.training.checkpoints import Checkpoints
from cutlayer_server.training.epoch import EpochProgress
from cutlayer_server.training.preflight import check_halves, check_last_batches
from cutlayer_server.training.starting_point import choose_checkpoint, note_begin, note_missing
from cutlayer_server.training.trainer import Trainer
from cutlayer_server.training.usage_reports import settle_at_the_end
from cutlayer_server.training.whole_model import WholeModel

__all__ = ["Connect", "Coordinator", "birth_of"]

Connect = Callable[[LastWill], Transport]
"""Makes a connection with this last will."""


def birth_of(trial: Trial, *, serves: bool = False) -> Presence:
    """The birth with which the server announces itself; ``serves`` if it answers queries instead of training."""
    return Presence(trial=trial.name, device=topics.SERVER, online=True, epoch=new_epoch(), serves=serves)


class Coordinator:
    """Leads the devices of a trial through its epochs.

    When a device restarts, everyone goes back to the newest checkpoint that all hold, as if the server had restarted
    too: there is one way to recover, whoever died. When a device sends impossible data, the others do the same and go
    on without it, so nothing remains of what it did after that checkpoint.

    Args:
        trial: what to do.
        test: the server's test set.
        place: where the model is trained and evaluated.

    Raises:
        UserError: the model, the cut, the input shape or the test set is wrong; nothing was started.
    """

    def __init__(self, trial: Trial, test: data.Samples, place: torch.device = CPU) -> None:
        self._trial, self._test, self._place = trial, test, place
        self._untrained = cut_model(trial.recipe)
        self._client, _ = client_of(trial.recipe, self._untrained)
        check_halves(trial, self._client, self._untrained.server, test)

    def run(self, connect: Connect, record: Record, waiting_for: Callable[[list[str]], None]) -> Summary:
        """Gather the devices, train, and dismiss them; the record is complete even if this raises.

        Args:
            connect: called each time that the devices are gathered.
            record: where everything is written; if it already has a beginning, training resumes from its checkpoints.
            waiting_for: called with the names of the devices still missing.

        Raises:
            PeerLost: a device died and did not come back, or fell silent; the others have been told.
            RemoteError: the only device that was left sent something unacceptable.
            CutlayerError: the training diverged, or a device has lost the state that it needs.
            OSError: a checkpoint cannot be written; the one before it is still there.
        """
        reason, ok, why = "", False, "the server started anew"
        try:
            while not ok:
                try:
                    with self._fleet(connect, record) as fleet:
                        reason, ok = self._lead(fleet, record, waiting_for, why), True
                        # First, since a run whose devices have left cannot be resumed.
                        record.write(Ended(time_s=record.now(), ok=True, reason=reason))
                        fleet.dismiss(reason, ok=True)
                except PeerStartedAnew as error:
                    why = str(error)
                except RemoteError as error:
                    left = set(self._trial.devices) - record.quarantined.keys() - {error.device}
                    if not error.device or not left:
                        raise
                    record.write(Quarantined(time_s=record.now(), device=error.device, reason=str(error)))
                    why = f"{error.device} is left out"
        except BaseException as error:
            reason = _reason(error)
            raise
        finally:
            if not ok:
                record.write(Ended(time_s=record.now(), ok=False, reason=reason))
            summary = record.close(self._trial.name)
        return summary

    @contextmanager
    def _fleet(self, connect: Connect, record: Record) -> Iterator[Fleet]:
        """The devices; they are told if what is done with them fails."""
        birth = birth_of(self._trial)
        transport = connect(will_of(topics.control(self._trial.name), birth))
        # A broker that died with an earlier server may still hold its birth, since its will was never published.
        earlier = swap_number(record.path / "server", birth.epoch)
        fleet = Fleet(self._trial, self._client.fingerprint, birth, transport, dict(record.quarantined), earlier)
        try:
            yield fleet
        except PeerLost as error:
            fleet.dismiss(_reason(error), ok=False)
            raise
        except (PeerStartedAnew, KeyboardInterrupt, OSError):  # the devices wait for the run to be resumed
            fleet.leave()
            raise
        except RemoteError as error:
            if error.device:
                fleet.expel(error.device, str(error))
            else:
                fleet.dismiss(_reason(error), ok=False)
            raise
        except BaseException as error:
            fleet.dismiss(_reason(error), ok=False)
            raise
        finally:
            transport.close()

    def _lead(self, fleet: Fleet, record: Record, waiting_for: Callable[[list[str]], None], why: str) -> str:
        """Gather the devices, train, and collect their last usage reports. Returns why training ended."""
        trial = self._trial
        births = fleet.gather(waiting_for)
        checkpoints = Checkpoints(record.path / "checkpoints")
        checkpoint = choose_checkpoint(trial, births, checkpoints, record)
        check_last_batches(trial, self._client, self._untrained, births)
        run = checkpoint.run if checkpoint else secrets.randbits(63) | 1
        model = WholeModel(self._untrained, self._client, trial, self._test, self._place)
        note_begin(record, checkpoint, births, why, name_of(self._place))
        models = ServerModels(model.server, trial.optimizer.server, copies=_has_copies(trial))
        trainer = Trainer(trial, self._client, fleet, models, record, checkpoints, run)
        if checkpoint:
            progress = trainer.restore(checkpoint)
        else:
            torch.manual_seed(trial.seeds.weights)
            progress = trainer.begin(model.initial_weights())
        note_missing(record, fleet.roll.missing, progress.epoch)
        fleet.assign(run, checkpoint.positions if checkpoint else {})
        if trial.idle_s and progress.is_untouched:  # also after a crash during the rest
            trainer.rest(trial.idle_s)
        reason = self._train(trainer, model, progress, record)
        settle_at_the_end(fleet, record, trial.idle_s)
        trainer.close()
        return reason

    def _train(self, trainer: Trainer, model: WholeModel, progress: EpochProgress, record: Record) -> str:
        """Run the rest of this epoch and all later ones; returns why training ended."""
        trial = self._trial
        while progress.epoch < trial.epochs:
            weights = trainer.train()
            done = trainer.end(partial(model.evaluate, weights))
            model.save(weights, record)
            if trial.target_accuracy is not None and done.test_accuracy >= trial.target_accuracy:
                return f"test accuracy {done.test_accuracy:.1%} reached the target of {trial.target_accuracy:.1%}"
            progress = EpochProgress(progress.epoch + 1, weights)
            if progress.epoch < trial.epochs:
                trainer.take_in(progress.epoch)
                trainer.start(progress)
        return f"all {trial.epochs} epochs are done"


def _has_copies(trial: Trial) -> bool:
    return isinstance(trial.aggregation, SplitFed) and trial.aggregation.version == 1


def _reason(error: BaseException) -> str:
    if isinstance(error, CutlayerError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "the server was interrupted"
    return f"the server failed: {type(error).__name__}: {error}"
