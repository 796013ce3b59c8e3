"""A client-side model that was trained before the trial, on samples that no device has (EcoFed)."""

import hashlib
import os
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from cutlayer_core.samples import data
from cutlayer_core.trial.trial import Trial
from cutlayer_cut import build_model, cut_model

EPOCHS, BATCH, RATE = 20, 128, 0.02


def pretrained(trial: Trial, pretraining: Path, seed: int, cache: Path, place: torch.device) -> Path:
    """Weights of the whole model: the client's pre-trained once, the server's as ``seed`` has them.

    SGD with Nesterov momentum and weight decay 5e-4, the rate divided by ten after half and after three quarters, as EcoFed's
    code does with other numbers.
    """
    fresh = trial.recipe.model
    plain = msgspec.structs.replace(trial.recipe, model=msgspec.structs.replace(fresh, weights=""), seed=seed)
    whole = cache / f"{fresh.factory.rsplit(':')[-1]}-{_fingerprint(trial, pretraining)}.safetensors"
    if not whole.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = whole.with_suffix(f".{os.getpid()}")
        save_file(_train(plain.model, trial, pretraining, place), unfinished)
        unfinished.rename(whole)
    client = cut_model(plain).client.state_dict().keys()
    weights = build_model(plain.model, seed).state_dict()
    trained = load_file(whole)
    path = cache / f"{whole.stem}-{fresh.cut}-{seed}.safetensors"
    save_file({name: trained[name] if name in client else value for name, value in weights.items()}, path)
    return path


def _fingerprint(trial: Trial, pretraining: Path) -> str:
    """Of everything that pre-training depends on, so that tables share what is the same."""
    model, prepared = trial.model, trial.data
    settings = (model.factory, model.kwargs, model.input_shape, prepared.mean, prepared.std, prepared.augmentation)
    with np.load(pretraining) as file:
        content = hashlib.sha256(msgspec.json.encode(settings) + file["x"].tobytes() + file["y"].tobytes())
    return content.hexdigest()[:12]


def _train(model, trial: Trial, pretraining: Path, place: torch.device) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    net = build_model(model, 1000).to(place)
    samples = data.load(pretraining, trial.model.input)
    prepare = data.Preparation(trial.model.input, trial.data.mean, trial.data.std)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [EPOCHS // 2, EPOCHS * 3 // 4])
    for epoch in range(EPOCHS):
        losses = []
        for batch in data.batches(samples, prepare, BATCH, (7, 0, epoch), trial.data.augmentation):
            x, y = torch.from_numpy(batch.x), torch.from_numpy(batch.y.astype(np.int64))
            loss = cross_entropy(net(x.to(place)), y.to(place))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        print(f"pre-training: epoch {epoch + 1} of {EPOCHS}, loss {np.mean(losses):.3f}", flush=True)
    return {name: tensor.cpu().contiguous() for name, tensor in net.state_dict().items()}
