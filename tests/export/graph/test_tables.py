"""Which embeddings train by rows, and that those that do, and those that do not, train as in torch."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from client_cases import Function, client
from clients import SGD, TOKENS, certified, graphs_of, traced
from cutlayer_core import tables
from cutlayer_core.engines import ENGINES
from cutlayer_core.trial.optimizers import Adam, Sgd
from cutlayer_export.errors import CertificateError
from cutlayer_export.graph.form import TARGETS, Form
from cutlayer_export.graph.tables import by_rows

PLAIN = Sgd(learning_rate=0.05)


class Tied(nn.Module):
    """Reads its embedding a second time, as a layer's weights."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)

    def forward(self, tokens):
        return self.embedding(tokens) @ self.embedding.weight.T


class Centred(nn.Module):
    """Reads its whole embedding in eval mode."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)

    def forward(self, tokens):
        z = self.embedding(tokens)
        return torch.tanh(z) if self.training else torch.tanh(z - self.embedding.weight.mean(0))


class Twice(nn.Module):
    """Looks its tokens up twice in one embedding, and once in another."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Embedding(20, 8, padding_idx=3), nn.Embedding(20, 8)

    def forward(self, tokens):
        return torch.tanh(self.first(tokens)) * self.first(tokens) + self.second(tokens)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Tables of any size train by rows."""
    monkeypatch.setattr("cutlayer_export.graph.tables._LEAST_ROWS", 0)


def embedding(**options):
    return client([nn.Embedding(20, 8, **options), nn.Linear(8, 4)])


@pytest.mark.parametrize(
    ("model", "optimizer", "names"),
    [
        (embedding(), SGD, ("0.weight",)),
        (embedding(padding_idx=5), PLAIN, ("0.weight",)),
        (Twice(), Sgd(learning_rate=0.05, momentum=0.9), ("second.weight",)),
        (embedding(), Sgd(learning_rate=0.05, clip_norm=1.0), ()),
        (embedding(), Adam(learning_rate=0.01), ()),
        (Tied(), SGD, ()),
        (Centred(), SGD, ()),
        (client([Function(nn.Flatten(), lambda x: x + 1), nn.Embedding(21, 8)]), SGD, ()),
    ],
    ids=[
        "momentum and decay",
        "padding",
        "looked up twice",
        "clipped",
        "adam",
        "tied",
        "whole in eval mode",
        "other tokens",
    ],
)
def test_an_embedding_of_its_own_tokens_trains_by_rows_under_sgd(model, optimizer, names):
    for engine in ENGINES:
        inference, graph = traced(model, TOKENS, optimizer)
        assert by_rows(graph, inference, padded=engine == "tflite")[1] == names
        assert certified(model, TOKENS, optimizer, form=Form(engine)).valid


@pytest.mark.parametrize(("rows", "names"), [(63 * 6, ()), (64 * 6, ("0.weight",))])
def test_a_table_that_a_batch_may_have_most_rows_of_trains_whole(rows, names, monkeypatch):
    monkeypatch.undo()
    inference, graph = traced(client([nn.Embedding(rows, 8)]), TOKENS, SGD)
    assert by_rows(graph, inference)[1] == names


@pytest.mark.parametrize("engine", ENGINES)
def test_backward_has_no_whole_table(engine):
    graphs = graphs_of(embedding(), TOKENS, form=Form(engine))
    assert graphs.tables == ("0.weight",)
    assert b"rows.params.0.weight" in graphs.files["backward"]
    assert b"params.0.weight" in graphs.files["forward"]


def test_backward_computes_nothing_again_that_forward_has_computed():
    model = client([nn.Embedding(20, 8), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 4)])
    files = graphs_of(model, TOKENS).files
    operations = {name: [node.op_type for node in onnx.load_from_string(files[name]).graph.node] for name in files}
    assert "Tanh" in operations["forward"]
    assert "Tanh" not in operations["backward"]


def test_a_batch_in_which_no_token_occurs_twice_trains_too():
    run = graphs_of(embedding(), TOKENS).graphs
    random = np.random.default_rng(0)
    values = {
        f"params.{name}": random.standard_normal(shape).astype(np.float32)
        for name, shape in {"0.weight": (20, 8), "1.weight": (4, 8), "1.bias": (4,)}.items()
    }
    values |= {name.replace("params", "state.momentum"): np.zeros_like(value) for name, value in values.items()}
    numbers = {"learning_rate": np.asarray(0.1, np.float32), "seed": np.asarray(0), "step": np.asarray(1)}
    given = (
        values | numbers | {"x": np.arange(12).reshape(2, 6), "g": random.standard_normal((2, 6, 4)).astype(np.float32)}
    )
    found = run.backward(given | run.forward(given))
    lone = given["g"].reshape(12, 4) @ values["params.1.weight"]
    np.testing.assert_allclose(found["gradients.0.weight"][:12], lone, rtol=1e-5, atol=1e-6)
    assert (found["new_params.0.weight"][:12] != values["params.0.weight"][:12]).all()


@pytest.mark.parametrize("target", TARGETS)
def test_a_table_trains_by_rows_on_any_tflite_runtime(target):
    assert certified(embedding(padding_idx=5), TOKENS, SGD, form=Form("tflite", target)).valid


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_that_are_brought_up_to_date_wrongly_are_not_certified(engine, monkeypatch):
    def without_momentum(self, learning_rate):
        return np.eye(2)

    monkeypatch.setattr(tables.Table, "_without_gradient", without_momentum)
    with pytest.raises(CertificateError, match=r"(params|state\.momentum)\.0\.weight differs from torch"):
        certified(embedding(), TOKENS, SGD, form=Form(engine))
