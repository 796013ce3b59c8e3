"""Single operations with their gradients as torch's autograd gives them, in files that any TFLite runtime can be held against."""

import copy
from itertools import chain

import numpy as np
import torch
from torch import nn

from client_cases import CLIENTS, OTHERS, client
from clients import IMAGE, described
from cutlayer_core.tables import Occurrences, Table
from cutlayer_core.trial.optimizers import Sgd
from cutlayer_core.trial.recipe import InputSpec
from cutlayer_cut import examples, training
from cutlayer_export.graph.draws import SeededDraws
from cutlayer_export.graph.form import Form
from cutlayer_export.graph.training_graph import trace_inference, trace_training
from cutlayer_export.tflite.writer import least_gain, tflite_files
from operations import OPERATIONS, REFUSED

STEP = Sgd(learning_rate=1.0)
"""With it a step of the optimizer is the gradient."""
BATCH, SEED = 3, 11
# Kernel, stride, padding, dilation, size.
SWEEPS = [
    (3, 1, 1, 1, 9), (3, 2, 1, 1, 9), (3, 2, 1, 1, 8), (5, 2, 2, 1, 9), (3, 1, 0, 1, 8), (3, 1, 2, 2, 9), (1, 2, 0, 1, 9),
    (1, 2, 0, 1, 8), (7, 2, 3, 1, 16), (3, 2, 0, 1, 9), (3, 2, 0, 1, 10), (4, 2, 1, 1, 10), (3, 3, 1, 1, 11), (2, 2, 0, 1, 9),
    (1, 1, 0, 1, 5), (5, 1, 2, 1, 7), ((3, 2), (2, 1), (1, 0), 1, 8), (3, 1, (2, 1), (2, 1), 9),
]  # fmt: skip
# Kernel, stride, padding, size, ceil.
POOLS = [
    (2, 2, 0, 8, False), (2, 2, 0, 9, False), (3, 2, 1, 9, False), (3, 2, 1, 8, False), (3, 2, 0, 9, False), (3, 1, 1, 7, False),
    (3, 3, 0, 9, False), (3, 3, 0, 11, False), (2, 1, 0, 6, False), (2, 2, 0, 9, True), (3, 2, 1, 8, True), ((2, 1), (2, 1), 0, 8, False),
]  # fmt: skip

IN_FLOAT32 = {"cdist", "tensordot", "bilinear", "grid_sample"}
"""Their constants have to be of the type of their input, which is float64 here."""


def nets():
    """Name, modules and input of each case."""
    for k, s, p, d, size in SWEEPS:
        shape = InputSpec(shape=(3, size, size))
        yield f"conv k{k} s{s} p{p} d{d} {size}", [nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, k, s, p, d)], shape
        yield f"depthwise k{k} s{s} p{p} d{d} {size}", [nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, k, s, p, d, 4)], shape
    for k, s, p, d, size in SWEEPS[:4]:
        shape = InputSpec(shape=(4, size, size))
        yield f"grouped k{k} s{s} {size}", [nn.Conv2d(4, 4, 1), nn.Conv2d(4, 6, k, s, p, d, 2)], shape
        yield f"multiplier k{k} s{s} {size}", [nn.Conv2d(4, 4, 1), nn.Conv2d(4, 8, k, s, p, d, 4)], shape
        yield f"transposed k{k} s{s} {size}", [nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 6, k, s, p)], shape
    for k, s, p, size, ceil in POOLS:
        shape = InputSpec(shape=(3, size, size))
        for name, pool in (("max", nn.MaxPool2d), ("average", nn.AvgPool2d)):
            own = pool(k, s, p, ceil_mode=ceil)
            yield (
                f"{name} pool k{k} s{s} p{p} {size} {ceil}",
                [nn.Conv2d(3, 4, 1), nn.ReLU(), own, nn.Conv2d(4, 4, 1)],
                shape,
            )
    for size in (1, 2, 3):
        yield f"adaptive pool {size}", [nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(size)], InputSpec(shape=(3, 8, 8))
    yield "batch norm", [nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6(), nn.Conv2d(4, 4, 1)], IMAGE
    yield "batch norm first", [nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)], IMAGE
    for activation in (
        nn.GELU(),
        nn.SiLU(),
        nn.Hardswish(),
        nn.LeakyReLU(),
        nn.ELU(),
        nn.Tanh(),
        nn.Sigmoid(),
        nn.Mish(),
    ):
        yield type(activation).__name__, [nn.Conv2d(3, 4, 1), activation, nn.Conv2d(4, 2, 1)], IMAGE
    yield "linear", [nn.Flatten(), nn.Linear(192, 7), nn.LayerNorm(7), nn.Linear(7, 3, bias=False)], IMAGE
    yield "softmax", [nn.Conv2d(3, 4, 1), nn.Softmax(1), nn.Conv2d(4, 2, 1), nn.LogSoftmax(3)], IMAGE
    deep = InputSpec(shape=(2, 3, 2, 3))
    for activation in (nn.ReLU(), nn.Hardswish(), nn.LeakyReLU(-0.1), nn.ELU(), nn.Dropout(0.3)):
        yield f"five axes, {type(activation).__name__}", [nn.Linear(3, 4), activation, nn.Linear(4, 2)], deep
    yield "threshold", [nn.Conv2d(3, 4, 1), nn.Threshold(0.0, 0.5), nn.Conv2d(4, 2, 1)], IMAGE
    yield "output padding", [nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 3, 2, 1, 1)], IMAGE
    yield "dilated pool", [nn.Conv2d(3, 4, 1), nn.MaxPool2d(2, 1, 0, 2)], IMAGE
    yield "GRU", OTHERS["GRU"][1], OTHERS["GRU"][0]
    yield "norms", [nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)], IMAGE
    yield "dropout", [nn.Conv2d(3, 4, 1), nn.Dropout(0.4), nn.Conv2d(4, 2, 1)], IMAGE
    yield "upsampling", [nn.ReflectionPad2d(1), nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2)], IMAGE
    for name in (
        "rolled, padded in circles",
        "least and greatest",
        "spread, sums so far, rounding",
        "norms of other orders",
        "one entry of each",
        "reductions",
    ):
        yield name, CLIENTS[name], IMAGE
    many = InputSpec(shape=(6,), dtype="int64", low=0, high=399)
    yield "embedding by rows", [nn.Embedding(400, 8, padding_idx=3), nn.Linear(8, 4)], many
    for name in ("signal", "features", "embedding", "transformer layer", "causal attention", "LSTM"):
        yield name, OTHERS[name][1], OTHERS[name][0]


def single_operations():
    """The same of the table of operations."""
    for name, operation in OPERATIONS.items():
        if name not in REFUSED["tflite"] | IN_FLOAT32:
            yield name, [operation.model()], operation.spec


def write_cases(folder):
    """A folder a case and form: TFLite files, and ``case.npz`` with what goes in and what torch says comes out."""
    for number, (name, modules, spec) in enumerate(chain(nets(), single_operations())):
        module = client(modules)
        _, state, values = described(module, spec, STEP)
        example = examples(spec, 5, seed=1)
        case = expected(copy.deepcopy(module).double(), spec, values)
        for target in ("xnnpack", "generic"):
            traced = trace_inference(module, state, example), trace_training(module, state, example, "all", STEP)
            path = folder / f"{number:03} {name} {target}"
            path.mkdir(parents=True)
            files, _, tables = tflite_files(*traced, target == "xnnpack", least_gain(Form("tflite", target)))
            for file, content in files.items():
                (path / f"{file}.tflite").write_bytes(content)
            np.savez(path / "case.npz", **case, **of_rows(case, tables))


def of_rows(case, tables):
    """What graphs that take rows of tables get besides, and which rows these are."""
    found = {}
    for name in tables:
        occurring = Occurrences.of(case["in.x"], len(case[f"in.params.{name}"]))
        given = Table(case[f"in.params.{name}"].copy(), None, STEP).given(name, occurring, padded=True)
        found |= {f"in.{key}": value for key, value in given.items()} | {f"rows.{name}": occurring.rows}
    return found


def expected(exact, spec, values):
    """``in.*`` for the graphs, and the results of one step of the client in float64, by the names of outputs."""
    x = examples(spec, BATCH, SEED)
    with training(exact, "all"), SeededDraws(SEED):
        z = exact(x.double() if x.is_floating_point() else x)
        g = torch.randn(z.shape, generator=torch.Generator().manual_seed(SEED)) / z[0].numel() ** 0.5
        z.backward(g.double())
    given = {name: value.numpy() for name, value in values.items()} | {"x": x.numpy(), "g": g.numpy()}
    given |= {"learning_rate": np.float32(1), "step": np.int64(1), "seed": np.int64(SEED)}
    wanted = {"z": z} | {f"buffers.{name}": value for name, value in exact.named_buffers()}
    found = {f"out.{name}": value.detach().numpy() for name, value in wanted.items()}
    found |= {f"gradient.{name}": each.grad.numpy() for name, each in exact.named_parameters() if each.grad is not None}
    return {f"in.{name}": value for name, value in given.items()} | found
