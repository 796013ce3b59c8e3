"""Both halves of the model in one place: evaluated on the test set, and saved under the names of the user's model."""

import copy
from statistics import fmean

import torch
from safetensors.torch import save as save_safetensors

from cutlayer_core.bundles.bundle import Client
from cutlayer_core.files import replace_file
from cutlayer_core.record.record import Record
from cutlayer_core.samples import data
from cutlayer_core.trial.trial import Trial
from cutlayer_cut import Halves
from cutlayer_server.model.server_model import Evaluation, client_weights, evaluate, load_client
from cutlayer_server.training.epoch import ClientWeights

__all__ = ["WholeModel"]

_EVALUATION_BATCH = 256


class WholeModel:
    """A copy of the user's model, cut in two; its server-side half is the one that gets trained.

    Args:
        untrained: as cut; left unchanged.
        client: describes the client-side half.
        trial: says how samples are prepared.
        test: the server's test set.
        place: where it is computed.
    """

    def __init__(
        self, untrained: Halves, client: Client, trial: Trial, test: data.Samples, place: torch.device
    ) -> None:
        halves = copy.deepcopy(untrained)  # much faster than cutting again
        self._client, self.server = halves.client.to(place), halves.server.to(place)
        self._names = [*client.params, *client.buffers]
        self._test, self._prepare = test, data.Preparation(client.input, trial.data.mean, trial.data.std)

    def initial_weights(self) -> ClientWeights:
        """The weights that the client-side model had when it was cut."""
        return ClientWeights(client_weights(self._client, self._names))

    def evaluate(self, weights: ClientWeights) -> Evaluation:
        """Loss and accuracy on the test set; the mean over several client-side models."""
        found = []
        for each in weights.models().values():
            load_client(self._client, each)
            batches = data.whole(self._test, self._prepare, _EVALUATION_BATCH)
            found.append(evaluate(self._client, self.server, batches))
        losses, accuracies = zip(*found, strict=True)
        return Evaluation(fmean(losses), fmean(accuracies))

    def save(self, weights: ClientWeights, record: Record) -> None:
        """Replace ``model.safetensors``; of several client-side models it has the first, and each has its own file."""
        for number, (device, each) in enumerate(weights.models().items()):
            load_client(self._client, each)
            whole = self._client.state_dict() | self.server.state_dict()
            # Clones in rows, since safetensors refuses tied weights, which share memory, and any other order.
            copies = {name: value.clone(memory_format=torch.contiguous_format) for name, value in whole.items()}
            content = save_safetensors(copies)
            if device:
                (record.path / "models").mkdir(exist_ok=True)
                replace_file(record.path / "models" / f"{device}.safetensors", content)
            if number == 0:
                replace_file(record.path / "model.safetensors", content)
