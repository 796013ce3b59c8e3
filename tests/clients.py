"""Export any module as a client and have it certified, without a trial or a bundle around it."""

import torch
from torch import nn

from cutlayer_core.bundles.bundle import Client
from cutlayer_core.bundles.certificate import Certificate
from cutlayer_core.trial.optimizers import Optimizer, Sgd
from cutlayer_core.trial.recipe import InputSpec, Spec
from cutlayer_cut import Cutter, UpToCut, client_state, examples, up_to_cut
from cutlayer_export.certificate.certificate import certify
from cutlayer_export.graph.form import FLOAT32_ONNX, Form, Written
from cutlayer_export.graph.training_graph import Graph, initial_values, trace_inference, trace_training
from cutlayer_export.writers import write_graphs

SGD = Sgd(learning_rate=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
IMAGE = InputSpec(shape=(3, 8, 8))
TOKENS = InputSpec(shape=(6,), dtype="int64", low=0, high=19)


def described(module: nn.Module, spec: InputSpec, optimizer: Optimizer, trainable: str = "all"):
    """Client, state and initial values."""
    example = examples(spec, 3, seed=0)
    state = client_state(module, example, trainable)
    with torch.no_grad():
        z = module.eval()(example)
    module.train()
    client = Client(
        factory="m:f", kwargs={}, cut="c", input=spec, smashed=Spec(shape=tuple(z.shape[1:])),
        params={name: Spec(shape=tuple(value.shape)) for name, value in state.params.items()},
        buffers={name: Spec(shape=tuple(value.shape)) for name, value in state.buffers.items()},
        constants=state.fingerprint, optimizer=optimizer if state.params else None, mean=(0.0,), std=(1.0,), classes=(),
    )  # fmt: skip
    return client, state, initial_values(state, client.optimizer)


def graphs_of(
    module: nn.Module,
    spec: InputSpec = IMAGE,
    optimizer: Optimizer = SGD,
    trainable: str = "all",
    form: Form = FLOAT32_ONNX,
) -> Written:
    """Everything that a writer gives."""
    return write_graphs(*traced(module, spec, optimizer, trainable), form)


def traced(
    module: nn.Module, spec: InputSpec, optimizer: Optimizer, trainable: str = "all"
) -> tuple[Graph, Graph | None]:
    """The graphs of inference and training."""
    client, state, _ = described(module, spec, optimizer, trainable)
    example = examples(spec, 5, seed=1)
    inference = trace_inference(module, state, example)
    return inference, trace_training(module, state, example, trainable, optimizer) if client.optimizer else None


def certified(
    module: nn.Module,
    spec: InputSpec = IMAGE,
    optimizer: Optimizer = SGD,
    trainable: str = "all",
    form: Form = FLOAT32_ONNX,
    source: UpToCut | None = None,
) -> Certificate:
    """The certificate; raises what an export raises."""
    client, _, values = described(module, spec, optimizer, trainable)
    arrays = {name: value.numpy() for name, value in values.items()}
    inference, training = traced(module, spec, optimizer, trainable)
    written = write_graphs(inference, training, form)
    sizes = {*inference.other_sizes, *(training.other_sizes if training else ())}
    source = source or UpToCut(module, "none")
    return certify(source, module, trainable, client, arrays, written.graphs, sizes)


def certified_cut(model: nn.Module, cut: str, spec: InputSpec = IMAGE, form: Form = FLOAT32_ONNX) -> Certificate:
    """The certificate of a model that is cut."""
    example = examples(spec, 3, seed=0)
    client = Cutter(model, example).cut(cut).client
    return certified(client, spec, form=form, source=up_to_cut(model, cut, client, example))
