"""Graphs are right on any number of threads, also where places, tokens and maxima occur more than once."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from client_cases import Function, client
from clients import IMAGE, certified, graphs_of
from cutlayer_core.errors import UserError
from cutlayer_core.trial.recipe import InputSpec
from cutlayer_export.errors import CertificateError
from cutlayer_export.graph.threads import on_any_threads

TOKENS = InputSpec(shape=(64,), dtype="int64", low=0, high=99)
TWICE = torch.tensor([0, 3, 3, 3, 1, 0, 2, 2] * 16)


def racing(base, dy, indices, padding_index):
    """What the gradient of an embedding was before: wrong where rows occur twice, on several threads."""
    from onnxscript import opset18 as op

    from cutlayer_export.onnx.values import integers, sizes

    flat, updates = op.Reshape(indices, integers([-1, 1])), op.Reshape(dy, integers([-1, sizes(dy)[-1]]))
    return op.ScatterND(base, flat, updates, reduction="add")


def test_an_embedding_of_few_tokens_trains_as_in_torch_on_all_threads():
    certificate = certified(client([nn.Embedding(100, 128)]), TOKENS)
    assert certificate.valid
    assert max(certificate.batch_sizes) * 64 >= 2048


@pytest.mark.alone  # threads race only where they have cores of their own
def test_a_kernel_that_loses_additions_on_several_threads_is_not_certified(monkeypatch):
    from cutlayer_export.onnx import operators

    monkeypatch.setattr(operators, "_embedding_grad_onto", racing)
    monkeypatch.setitem(operators.TRANSLATIONS, torch.ops.cutlayer.embedding_grad_onto.default, racing)
    monkeypatch.setattr("cutlayer_export.onnx.writer._refuse_races", lambda model: None)
    with pytest.raises(CertificateError, match=r"is not the same|differs from torch"):
        certified(client([nn.Embedding(100, 128)]), TOKENS)


@pytest.mark.parametrize(
    "indexed",
    [
        lambda x: x[:, TWICE % 8],
        lambda x: x[:, :, TWICE % 6, TWICE % 5],
        lambda x: x[:, TWICE % 8, :, (TWICE - 2) % 3].movedim(0, -1),
        lambda x: x[:, :, -1 - TWICE],
    ],
)
def test_indexing_the_same_place_twice_adds_its_gradients(indexed):
    module = client([Function(nn.Conv2d(3, 8, 3), indexed)])
    model = onnx.load_from_string(graphs_of(module, IMAGE).files["backward"])
    assert not any(node.op_type == "ScatterND" for node in model.graph.node)
    assert certified(module, IMAGE).valid


def test_a_mask_that_chooses_where_to_add_is_refused():
    def masked(x):
        return torch.ones_like(x).index_put((x > 0,), x.new_ones(()), accumulate=True) * x

    with pytest.raises(UserError, match="adds to places that a mask chooses"):
        graphs_of(client([Function(nn.Conv2d(3, 4, 3), masked)]), IMAGE)


def test_results_that_depend_on_the_threads_are_an_error():
    run = on_any_threads(lambda threads: lambda values: {"z": values["x"] * np.float32(1 + (threads > 1) * 1e-4)})
    run({"x": np.zeros(3, np.float32)})
    with pytest.raises(CertificateError, match="z is not the same on one thread and on"):
        run({"x": np.ones(3, np.float32)})


def test_results_that_differ_from_run_to_run_are_an_error():
    random = np.random.default_rng(0)

    def load(threads):
        return lambda values: {"z": values["x"] * np.float32(1 + (threads > 1) * 1e-6 * random.random())}

    with pytest.raises(CertificateError, match=r"z is not the same twice on \d+ threads"):
        on_any_threads(load)({"x": np.ones(3, np.float32)})


def test_a_product_of_one_sample_may_round_otherwise_on_several_threads():
    certificate = certified(
        client([nn.Conv2d(3, 24, 1), nn.ReLU6(), nn.Conv2d(24, 144, 1)]), InputSpec(shape=(3, 32, 32))
    )
    assert certificate.valid
    assert 1 in certificate.batch_sizes


def test_a_tensor_that_is_all_rounding_may_differ_with_the_number_of_threads():
    def load(threads):
        def run(values):
            state = {
                "new_state.mean.0.bias": values["x"] * np.float32(1e-9 * threads),
                "new_state.mean.0.weight": values["x"],
            }
            return state | {"new_state.variance.0.bias": values["x"] * np.float32(values["wrong"] ** threads * 1e-9)}

        return run

    ones = np.ones(3, np.float32)
    run = on_any_threads(load)
    run({"x": ones, "wrong": 1.0})
    with pytest.raises(CertificateError, match=r"new_state\.variance\.0\.bias is not the same on one thread and on"):
        run({"x": ones, "wrong": 1.1})
