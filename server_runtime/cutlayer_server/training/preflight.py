"""Checks that find what is wrong with a trial before training begins."""

import copy
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from cutlayer_core.bundles.bundle import Client
from cutlayer_core.errors import RemoteError, UserError
from cutlayer_core.samples import data
from cutlayer_core.trial.aggregation import Epsl
from cutlayer_core.trial.trial import Trial
from cutlayer_core.wire.chunks import MAX_MESSAGE_BYTES
from cutlayer_core.wire.messages import Presence
from cutlayer_cut import Halves, examples, training

__all__ = ["check_halves", "check_last_batches"]

_HEADER_ROOM = 1 << 20


def check_halves(trial: Trial, client: Client, server: nn.Module, test: data.Samples) -> None:
    """Run the server-side model once; check its classes against the test set, and message sizes against their limit.

    Raises:
        UserError: names the key of the trial file and what to change.
    """
    training = server.training
    try:
        with torch.no_grad():
            logits = server.eval()(torch.zeros(2, *client.smashed.shape))
    except (RuntimeError, ValueError, TypeError) as error:
        shape = client.smashed.shape
        raise UserError(
            f"model.cut: what follows {client.cut!r} does not accept its output {shape}: {error}"
        ) from error
    finally:
        server.train(training)
    if extra := [name for name in server.state_dict() if name.endswith("_extra_state")]:
        raise UserError(f"model.factory: {extra[0]} is state that is no tensor, which no checkpoint can hold")
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        raise UserError(f"model.factory: {client.factory} gives no class scores of shape (batch, classes)")
    if int(test.y.max()) >= logits.shape[1]:
        raise UserError(f"data.test: found the class number {test.y.max()}, the model has {logits.shape[1]} classes")
    _check_sizes(trial, client)


def check_last_batches(trial: Trial, client: Client, halves: Halves, devices: Mapping[str, Presence]) -> None:
    """Check that both halves can train on each device's last, smaller batch, which BatchNorm may not.

    Raises:
        RemoteError: names the key, the device and the batch; the others can go on without that device.
    """
    batch = trial.data.batch_size
    last = {name: (each.samples - 1) % batch + 1 for name, each in devices.items()}
    for size in sorted(set(last.values())):
        if not (problem := _training_problem(trial, client, halves, size)):
            continue
        name = next(name for name, found in last.items() if found == size)
        refusal = RemoteError(
            f"data.batch_size: found {batch}, which leaves {size} of the {devices[name].samples} samples of {name} for "
            f"its last batch, on which {problem}; take another batch size, or another number of samples"
        )
        refusal.device = name
        raise refusal


def _training_problem(trial: Trial, client: Client, halves: Halves, size: int) -> str:
    """Why the halves cannot train on a batch of this size, in words; empty if they can."""
    x, z = examples(client.input, size, trial.seeds.weights), torch.zeros(size, *client.smashed.shape)
    frozen = trial.model.trainable == "none"
    passes = [] if frozen else [("client", halves.client, x, trial.model.trainable)]
    for side, original, inputs, trainable in (*passes, ("server", halves.server, z, "all")):
        half = copy.deepcopy(original)  # whose running statistics do not matter
        try:
            with torch.no_grad(), training(half, trainable):
                half(inputs)
        except (RuntimeError, ValueError) as error:
            return f"the {side}-side model cannot train: {error}"
        # Operations that were traced do not check what torch's modules check before they run them.
        if any(not bool(value.isfinite().all()) for value in half.buffers() if value.is_floating_point()):
            return f"the {side}-side model cannot train: its running statistics are no numbers after it, as those of BatchNorm with one value"
    return ""


def _check_sizes(trial: Trial, client: Client) -> None:
    limit = MAX_MESSAGE_BYTES - _HEADER_ROOM
    batch = (trial.data.batch_size, *client.smashed.shape)
    rule = trial.aggregation
    shared = math.ceil(rule.phi * batch[0]) if isinstance(rule, Epsl) else 0
    if problem := trial.codec.problem(batch, shared):
        raise UserError(f"{problem}, for smashed data of shape {client.smashed.shape}")
    for way, size in trial.codec.largest_bytes(batch, shared).items():
        if size > limit:
            raise UserError(
                f"data.batch_size: a batch is {size / 1e6:.0f} MB {way}, allowed: up to {limit / 1e6:.0f} MB"
            )
    specs = [*client.params.values(), *client.buffers.values()]
    weights = sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in specs)
    if weights > limit:
        raise UserError(
            f"model.cut: the client-side weights are {weights / 1e6:.0f} MB, allowed: up to {limit / 1e6:.0f} MB; cut earlier"
        )
