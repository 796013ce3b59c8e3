"""A trial from the server's side, top to bottom."""

import math
from collections.abc import Callable

from safetensors.torch import save as save_safetensors

from cutlayer import data
from cutlayer.endpoint import new_epoch
from cutlayer.errors import CutlayerError
from cutlayer.messages import Presence
from cutlayer.record import Ended, Record, Started, Summary
from cutlayer.transports import Transport
from cutlayer.trial import Trial
from cutlayer_cut import client_of, cut_trial_model
from cutlayer_server.fleet import Fleet
from cutlayer_server.rounds import run_round
from cutlayer_server.server_model import Evaluation, ServerModel, evaluate, load_client
from cutlayer_server.trainer import Trainer

__all__ = ["Coordinator", "birth_of"]

_EVALUATION_BATCH = 256


def birth_of(trial: Trial) -> Presence:
    """What the server announces itself with."""
    return Presence(trial=trial.name, device="all", online=True, epoch=new_epoch())


class Coordinator:
    """Leads the devices of a trial through its epochs.

    Args:
        trial: what to do.
        test: the server's test set.
        record: where everything is written.

    Raises:
        UserError: the model, the cut or the input shape is wrong.
    """

    def __init__(self, trial: Trial, test: data.Samples, record: Record) -> None:
        self._trial, self._test, self._record = trial, test, record
        self._halves = cut_trial_model(trial)
        self._client = client_of(trial, self._halves)
        self._prepare = data.Preparation(self._client.input.shape, trial.data.mean, trial.data.std)

    def run(self, birth: Presence, transport: Transport, waiting_for: Callable[[list[str]], None]) -> Summary:
        """Gather the devices, train, dismiss them; the record is complete even if this raises.

        Args:
            birth: from `birth_of`.
            transport: connected, with the last will that belongs to ``birth``.
            waiting_for: called with the names of the devices still missing.

        Raises:
            PeerLost: a device died or fell silent; the others were told.
            RemoteError: a device sent what does not belong; the others were told.
        """
        fleet = Fleet(self._trial, self._client.fingerprint, birth, transport)
        reason, ok = "the server was interrupted", False
        try:
            devices = fleet.gather(waiting_for)
            self._record.write(Started(time_s=self._record.now(), devices=devices))
            reason, ok = self._train(fleet, devices), True
        except CutlayerError as error:
            reason = str(error)
            raise
        finally:
            fleet.dismiss(reason, ok)
            self._record.write(Ended(time_s=self._record.now(), ok=ok, reason=reason))
            summary = self._record.close(self._trial.name)
        return summary

    def _train(self, fleet: Fleet, devices: dict[str, int]) -> str:
        """All epochs; returns why they ended."""
        trial, halves, losses = self._trial, self._halves, list[float]()
        model = ServerModel(halves.server, trial.optimizer.server)
        trainer = Trainer(trial, self._client, fleet, devices, model, self._record)
        weights = {name: value.numpy().copy() for name, value in halves.client.state_dict().items()}
        for epoch in range(trial.epochs):
            trainer.start_epoch(epoch, trial.schedule.decide(epoch, losses))
            weights = run_round(trial.aggregation, trainer, weights)
            load_client(halves.client, weights)
            done = trainer.end_epoch(self._evaluate)
            self._save()
            losses.append(done.loss)
            if not math.isfinite(done.loss):
                raise CutlayerError(f"the training loss of epoch {epoch} is {done.loss}: lower the learning rates")
            if trial.target_accuracy is not None and done.test_accuracy >= trial.target_accuracy:
                return f"test accuracy {done.test_accuracy:.1%} reached the target of {trial.target_accuracy:.1%}"
        return f"all {trial.epochs} epochs are done"

    def _evaluate(self) -> Evaluation:
        batches = data.whole(self._test, self._prepare, _EVALUATION_BATCH)
        return evaluate(self._halves.client, self._halves.server, batches)

    def _save(self) -> None:
        """Replace ``model.safetensors`` by the weights of now; a crash leaves the old or the new, never half a file."""
        weights = self._halves.client.state_dict() | self._halves.server.state_dict()
        unfinished = self._record.path / "model.safetensors.part"
        unfinished.write_bytes(save_safetensors({name: value.contiguous() for name, value in weights.items()}))
        unfinished.replace(self._record.path / "model.safetensors")
