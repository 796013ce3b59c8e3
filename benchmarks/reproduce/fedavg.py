"""FedAvg of the whole model (McMahan et al., arXiv 1602.05629): what split learning is compared with in EcoFed's tables.

cutlayer has no such trial, since boards cannot train whole models; this is plain torch, on the same data, with the same
rounds, draws and optimizer. Its traffic is what it would be: the model, as float32, to each client of a round and back.
"""

import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from cutlayer_core.samples import data
from cutlayer_core.samples.draws import seed_of
from cutlayer_core.trial.trial import Trial
from cutlayer_cut import build_model, torch_optimizer
from cutlayer_server.model.averaging import average

_CHOICE = 3


def fedavg(trial: Trial, inputs: Path, seed: int, place: torch.device) -> dict[str, Any]:
    """Accuracies and traffic, a round an epoch."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = build_model(trial.model, seed).to(place)
    prepare = data.Preparation(trial.model.input, trial.data.mean, trial.data.std)
    shares = [data.load(inputs / f"{name}.npz", trial.model.input) for name in trial.devices]
    test = data.load(inputs / "test.npz", trial.model.input, part="test")
    accuracies, clients = [], trial.clients_per_round or len(shares)
    began = time.perf_counter()
    for epoch in range(trial.epochs):
        drawn = np.random.default_rng(seed_of(seed, epoch, _CHOICE)).permutation(len(shares))[:clients]
        trained, samples = {}, {}
        for client in drawn:
            local = copy.deepcopy(model)
            optimizer = torch_optimizer(local.parameters(), trial.optimizer.server)
            every = (seed, int(client), epoch)
            for batch in data.batches(shares[client], prepare, trial.data.batch_size, every, trial.data.augmentation):
                optimizer.zero_grad()
                x, y = torch.from_numpy(batch.x), torch.from_numpy(batch.y.astype(np.int64))
                cross_entropy(local(x.to(place)), y.to(place)).backward()
                optimizer.step()
            trained[str(client)] = {name: tensor.cpu().numpy() for name, tensor in local.state_dict().items()}
            samples[str(client)] = len(shares[client].y)
        mean = average(trained, samples)
        model.load_state_dict({name: torch.from_numpy(np.asarray(array)) for name, array in mean.items()})
        accuracies.append(_accuracy(model, data.whole(test, prepare, 500), place))
    size = 4 * sum(each.numel() for each in model.state_dict().values()) * clients * trial.epochs
    return {
        "accuracy": accuracies[-1],
        "best_accuracy": max(accuracies),
        "accuracies": accuracies,
        "modes": "F" * trial.epochs,
        "up_bytes": size,
        "down_bytes": size,
        "wall_s": round(time.perf_counter() - began, 1),
    }


def _accuracy(model: torch.nn.Module, batches: Any, place: torch.device) -> float:
    correct = count = 0
    with torch.inference_mode():
        model.eval()
        for x, labels in batches:
            correct += int((model(torch.from_numpy(x).to(place)).argmax(1).cpu().numpy() == labels).sum())
            count += len(labels)
    model.train()
    return round(100 * correct / count, 2)
