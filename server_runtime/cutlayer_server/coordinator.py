"""A trial from the server's side, top to bottom."""

from collections.abc import Callable

from safetensors.torch import save as save_safetensors

from cutlayer import data
from cutlayer.endpoint import new_epoch
from cutlayer.errors import CutlayerError
from cutlayer.messages import Presence
from cutlayer.record import Ended, Record, Started, Summary
from cutlayer.transports import Transport
from cutlayer.trial import Trial
from cutlayer_cut import client_of, cut_model
from cutlayer_server.checks import check_halves
from cutlayer_server.fleet import Fleet
from cutlayer_server.rounds import run_round
from cutlayer_server.server_model import Evaluation, ServerModel, client_weights, evaluate, load_client
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

    Raises:
        UserError: the model, the cut, the input shape or the test set is wrong; nothing was begun.
    """

    def __init__(self, trial: Trial, test: data.Samples) -> None:
        self._trial, self._test = trial, test
        self._halves = cut_model(trial.recipe)
        self._client, _ = client_of(trial.recipe, self._halves)
        self._prepare = data.Preparation(self._client.input, trial.data.mean, trial.data.std)
        check_halves(trial, self._client, self._halves.server, test)

    def run(
        self, birth: Presence, transport: Transport, record: Record, waiting_for: Callable[[list[str]], None]
    ) -> Summary:
        """Gather the devices, train, dismiss them; the record is complete even if this raises.

        Args:
            birth: from `birth_of`.
            transport: connected, with the last will that belongs to ``birth``.
            record: where everything is written.
            waiting_for: called with the names of the devices still missing.

        Raises:
            PeerLost: a device died or fell silent; the others were told.
            RemoteError: a device sent what does not belong; the others were told.
            CutlayerError: the training diverged.
        """
        fleet = Fleet(self._trial, self._client.fingerprint, birth, transport)
        reason, ok = "", False
        try:
            devices = fleet.gather(waiting_for)
            record.write(Started(time_s=record.now(), devices=devices))
            reason, ok = self._train(fleet, record), True
        except BaseException as error:
            reason = _reason(error)
            raise
        finally:
            fleet.dismiss(reason, ok)
            record.write(Ended(time_s=record.now(), ok=ok, reason=reason))
            summary = record.close(self._trial.name)
        return summary

    def _train(self, fleet: Fleet, record: Record) -> str:
        """All epochs; returns why they ended."""
        trial, halves, losses = self._trial, self._halves, list[float]()
        model = ServerModel(halves.server, trial.optimizer.server)
        trainer = Trainer(trial, self._client, fleet, model, record)
        weights = client_weights(halves.client, [*self._client.params, *self._client.buffers])
        for epoch in range(trial.epochs):
            trainer.start_epoch(epoch, trial.schedule.decide(epoch, losses))
            weights = run_round(trial.aggregation, trainer, weights)
            load_client(halves.client, weights)
            done = trainer.end_epoch(self._evaluate)
            self._save(record)
            losses.append(done.loss)
            if trial.target_accuracy is not None and done.test_accuracy >= trial.target_accuracy:
                return f"test accuracy {done.test_accuracy:.1%} reached the target of {trial.target_accuracy:.1%}"
        return f"all {trial.epochs} epochs are done"

    def _evaluate(self) -> Evaluation:
        batches = data.whole(self._test, self._prepare, _EVALUATION_BATCH)
        return evaluate(self._halves.client, self._halves.server, batches)

    def _save(self, record: Record) -> None:
        """Replace ``model.safetensors`` by the weights of now; a crash leaves the old or the new, never half a file."""
        weights = self._halves.client.state_dict() | self._halves.server.state_dict()
        unfinished = record.path / "model.safetensors.part"
        # Clones, since tied weights share memory, which safetensors refuses.
        unfinished.write_bytes(save_safetensors({name: value.clone() for name, value in weights.items()}))
        unfinished.replace(record.path / "model.safetensors")


def _reason(error: BaseException) -> str:
    if isinstance(error, CutlayerError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "the server was interrupted"
    return f"the server failed: {type(error).__name__}: {error}"
