"""A trial from the server's side, top to bottom."""

import copy
import secrets
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import fmean

import torch
from safetensors.torch import save as save_safetensors

from cutlayer_core.errors import CutlayerError, PeerLost, PeerStartedAnew, RemoteError, UserError
from cutlayer_core.files import replace_file, swap_number
from cutlayer_core.record.events import Ended, Joined, Missed, Quarantined, Resumed, Started
from cutlayer_core.record.record import Record, Summary
from cutlayer_core.samples import data
from cutlayer_core.trial.aggregation import SplitFed
from cutlayer_core.trial.trial import Trial
from cutlayer_core.wire import topics
from cutlayer_core.wire.messages import Presence
from cutlayer_core.wire.presence import new_epoch, will_of
from cutlayer_core.wire.transports import LastWill, Transport
from cutlayer_cut import Halves, client_of, cut_model
from cutlayer_server.fleet.fleet import Fleet
from cutlayer_server.model.processor import CPU, name_of
from cutlayer_server.model.server_model import Evaluation, client_weights, evaluate, load_client
from cutlayer_server.model.server_models import ServerModels
from cutlayer_server.training.checkpoints import Checkpoint, Checkpoints
from cutlayer_server.training.preflight import check_halves, check_last_batches
from cutlayer_server.training.rounds import ClientWeights, Round, run_round
from cutlayer_server.training.trainer import Trainer
from cutlayer_server.training.usage_reports import settle_at_the_end

__all__ = ["Connect", "Coordinator", "birth_of"]

Connect = Callable[[LastWill], Transport]
"""Makes a connection with this last will."""
_EVALUATION_BATCH = 256
_NOWHERE = Round(0, ClientWeights({}))


def birth_of(trial: Trial, *, serves: bool = False) -> Presence:
    """What the server announces itself with; ``serves`` if it answers queries instead of training."""
    return Presence(trial=trial.name, device=topics.SERVER, online=True, epoch=new_epoch(), serves=serves)


class Coordinator:
    """Leads the devices of a trial through its epochs.

    When a device starts anew, everybody goes back to the newest checkpoint that all hold, as if the server had started
    anew, too: there is one way to recover, whoever died. When a device sends what cannot be, the others do the same and
    go on without it, so nothing stays of what it did after that checkpoint.

    Args:
        trial: what to do.
        test: the server's test set.
        place: where the model is trained and evaluated.

    Raises:
        UserError: the model, the cut, the input shape or the test set is wrong; nothing was begun.
    """

    def __init__(self, trial: Trial, test: data.Samples, place: torch.device = CPU) -> None:
        self._trial, self._test, self._place = trial, test, place
        self._untrained = cut_model(trial.recipe)
        self._client, _ = client_of(trial.recipe, self._untrained)
        self._prepare = data.Preparation(self._client.input, trial.data.mean, trial.data.std)
        check_halves(trial, self._client, self._untrained.server, test)

    def run(self, connect: Connect, record: Record, waiting_for: Callable[[list[str]], None]) -> Summary:
        """Gather the devices, train, dismiss them; the record is complete even if this raises.

        Args:
            connect: called each time that the devices are gathered.
            record: where everything is written; if it was begun before, the training goes on from its checkpoints.
            waiting_for: called with the names of the devices still missing.

        Raises:
            PeerLost: a device died and did not come back, or fell silent; the others were told.
            RemoteError: the only device that was left sent what does not belong.
            CutlayerError: the training diverged, or a device has lost the state that it needs.
            OSError: a checkpoint cannot be written; the one before it is there still.
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
        """The devices, who are told if what is done with them fails."""
        birth = birth_of(self._trial)
        transport = connect(will_of(topics.control(self._trial.name), birth))
        # A broker that died with the server may still have the birth of the one before, whose will never came.
        earlier = swap_number(record.path / "server", birth.epoch)
        fleet = Fleet(self._trial, self._client.fingerprint, birth, transport, dict(record.quarantined), earlier)
        try:
            yield fleet
        except PeerLost as error:
            fleet.dismiss(_reason(error), ok=False)
            raise
        except (PeerStartedAnew, KeyboardInterrupt, OSError):  # the devices wait for who resumes the run
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
        """Gather, go on from where all can, or begin; and train. Returns why the training ended."""
        devices = fleet.gather(waiting_for)
        checkpoints = Checkpoints(record.path / "checkpoints")
        checkpoint = self._checkpoint_for(devices, record.quarantined, checkpoints, record.count)
        known = record.devices() if checkpoint else {}
        _check_samples(known, devices)
        check_last_batches(self._trial, self._client, self._untrained.server, devices)
        run = checkpoint.run if checkpoint else secrets.randbits(63) | 1
        halves = copy.deepcopy(self._untrained)  # much faster than cutting again
        for half in (halves.client, halves.server):
            half.to(self._place)
        samples = {name: each.samples for name, each in devices.items()}
        _note_begin(record, checkpoint, samples, known, why, name_of(self._place))
        models = ServerModels(halves.server, self._trial.optimizer.server, copies=_has_copies(self._trial))
        trainer = Trainer(self._trial, self._client, fleet, models, record, checkpoints, run)
        if checkpoint:
            state = trainer.restore(checkpoint)
        else:
            torch.manual_seed(self._trial.seeds.weights)
            names = [*self._client.params, *self._client.buffers]
            state = Round(0, ClientWeights(client_weights(halves.client, names)))
            trainer.start(state)
            trainer.checkpoint()
        for name in fleet.missing:
            record.write(Missed(time_s=record.now(), epoch=state.epoch, device=name, reason="it has not joined"))
        fleet.assign(run, checkpoint.positions if checkpoint else {})
        if state.epoch == 0 and not state.steps and not state.returned:  # also after a crash in the middle of it
            trainer.rest()
        reason = self._train(trainer, halves, state, record)
        settle_at_the_end(fleet, record, self._trial.idle_s)
        trainer.close()
        return reason

    def _checkpoint_for(
        self, devices: dict[str, Presence], quarantined: Container[str], checkpoints: Checkpoints, events: int
    ) -> Checkpoint | None:
        """The newest from which all can go on; in a trial that does not need all, who cannot begins anew."""
        checkpoint = checkpoints.newest_held_by({} if self._trial.min_devices else devices, events)
        for name in self._trial.devices:
            if checkpoint is None:
                break
            if name in quarantined:
                checkpoint.leave_out(name)
            elif name not in devices or not checkpoint.is_held_by(devices[name]):
                checkpoint.forget(name)
        return checkpoint

    def _train(self, trainer: Trainer, halves: Halves, state: Round, record: Record) -> str:
        """The rest of this epoch and all later ones; returns why they ended."""
        trial = self._trial
        while state.epoch < trial.epochs:
            weights = run_round(trial.aggregation, trainer, state)
            done = trainer.end(partial(self._evaluate, halves, weights))
            _save(halves, weights, record)
            if trial.target_accuracy is not None and done.test_accuracy >= trial.target_accuracy:
                return f"test accuracy {done.test_accuracy:.1%} reached the target of {trial.target_accuracy:.1%}"
            state = Round(state.epoch + 1, weights)
            if state.epoch < trial.epochs:
                trainer.take_in(state.epoch)
                trainer.start(state)
        return f"all {trial.epochs} epochs are done"

    def _evaluate(self, halves: Halves, weights: ClientWeights) -> Evaluation:
        """Of several client-side models, the mean."""
        found = []
        for client in weights.models().values():
            load_client(halves.client, client)
            batches = data.whole(self._test, self._prepare, _EVALUATION_BATCH)
            found.append(evaluate(halves.client, halves.server, batches))
        losses, accuracies = zip(*found, strict=True)
        return Evaluation(fmean(losses), fmean(accuracies))


def _note_begin(
    record: Record,
    checkpoint: Checkpoint | None,
    samples: dict[str, int],
    known: Container[str],
    why: str,
    processor: str,
) -> None:
    """Write who begins, or where the training goes on, and who is new then."""
    if record.count:
        kept, state = (checkpoint.books.events, checkpoint.round) if checkpoint else (0, _NOWHERE)
        done = state.steps.total()
        record.write(Resumed(time_s=record.now(), kept=kept, epoch=state.epoch, step=done, reason=why))
    if checkpoint is None:
        record.write(Started(time_s=record.now(), devices=samples, processor=processor))
        return
    for name, number in samples.items():
        if name not in known:
            epoch = checkpoint.round.epoch
            record.write(Joined(time_s=record.now(), epoch=epoch, device=name, samples=number))


def _check_samples(began: dict[str, int], devices: dict[str, Presence]) -> None:
    for name, each in devices.items():
        if began.get(name, each.samples) != each.samples:
            raise UserError(
                f"{name} has {each.samples} samples, it had {began[name]} when this run began: give it the same --data, "
                "or start the trial anew with another --run-dir"
            )


def _save(halves: Halves, weights: ClientWeights, record: Record) -> None:
    """Replace ``model.safetensors`` by the weights of now; of several clients', those of each, and here the first one's."""
    for number, (device, client) in enumerate(weights.models().items()):
        load_client(halves.client, client)
        whole = halves.client.state_dict() | halves.server.state_dict()
        # Clones, since tied weights share memory, which safetensors refuses.
        content = save_safetensors({name: value.clone() for name, value in whole.items()})
        if device:
            (record.path / "models").mkdir(exist_ok=True)
            replace_file(record.path / "models" / f"{device}.safetensors", content)
        if number == 0:
            replace_file(record.path / "model.safetensors", content)


def _has_copies(trial: Trial) -> bool:
    return isinstance(trial.aggregation, SplitFed) and trial.aggregation.version == 1


def _reason(error: BaseException) -> str:
    if isinstance(error, CutlayerError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "the server was interrupted"
    return f"the server failed: {type(error).__name__}: {error}"
