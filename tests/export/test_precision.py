"""Inference bundles in float16 and int8."""

import numpy as np
import pytest
import torch
from torch import nn

from client_cases import Last, client
from clients import SGD, described
from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.errors import UserError
from cutlayer_core.trial.recipe import InputSpec
from cutlayer_cut import examples
from cutlayer_cut.zoo.lenet import LeNet
from cutlayer_device.engines import load_engine
from cutlayer_export.certificate.reduction import reduction_of
from cutlayer_export.cli import export
from cutlayer_export.graph.form import Form
from cutlayer_export.graph.training_graph import trace_inference
from cutlayer_export.options import Options
from cutlayer_export.tflite.writer import write

MODEL = ("cutlayer_cut.zoo.lenet:LeNet", "none", "1x28x28", "{}", "", "", "")
SAMPLES = np.random.default_rng(0).standard_normal((24, 1, 28, 28)).astype(np.float32)


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    path = tmp_path_factory.mktemp("exact") / "whole.bundle"
    export(None, Options(*MODEL, "tflite"), path, fresh=True, as_json=False)
    return path


@pytest.mark.parametrize(("precision", "share", "error"), [("float16", 0.55, 1e-3), ("int8", 0.4, 5e-2)])
def test_fewer_bits_make_the_file_smaller_and_the_result_a_little_other(
    tmp_path, exact, capsys, precision, share, error
):
    np.savez(tmp_path / "samples.npz", x=SAMPLES, y=np.zeros(len(SAMPLES), np.uint8))
    options = Options(*MODEL, "tflite", "xnnpack", precision, tmp_path / "samples.npz")
    export(None, options, tmp_path / "less.bundle", fresh=True, as_json=False)
    less, whole = read_bundle(tmp_path / "less.bundle"), read_bundle(exact)
    assert f"{precision}             "[:14] in capsys.readouterr().out
    assert less.manifest.precision == precision
    assert 0 < less.certificate.precision_error < error
    assert less.certificate.errors == whole.certificate.errors, "of the graph in float32"
    assert len(less.graph("inference")) < share * len(whole.graph("inference"))
    found, wanted = (load_engine(each, 1).infer(SAMPLES[:5]) for each in (less, whole))
    assert found.dtype == np.float32
    assert 0 < np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)) < error


def test_a_bundle_in_float32_says_nothing_of_precision(exact):
    assert "precision" not in (exact / "manifest.json").read_text()
    assert "precision" not in (exact / "certificate.json").read_text()


@pytest.mark.parametrize(
    ("form", "trains", "message"),
    [
        (Form("tensorrt"), True, "--engine: found 'tensorrt', allowed: onnx, tflite"),
        (Form("tflite", "tpu"), True, "--target: found 'tpu', allowed: xnnpack, generic"),
        (Form("tflite", precision="int4"), False, "--precision: found 'int4', allowed: float32, float16, int8"),
        (Form("onnx", precision="int8"), False, "allowed with --engine tflite"),
        (Form("tflite", precision="float16"), True, "a board trains in float32"),
        (Form("tflite", precision="int8"), False, "needs --calibration"),
    ],
)
def test_a_form_that_makes_no_sense_is_refused(form, trains, message):
    with pytest.raises(UserError, match=message):
        form.check(trains=trains)


HEADS = {
    "adaptive pools that do not divide": (
        InputSpec(shape=(3, 10, 10)),
        [nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d((3, 5))],
    ),
    "GRU": (InputSpec(shape=(10, 6)), [Last(nn.GRU(6, 16, batch_first=True)), nn.Linear(16, 5)]),
    "LSTM": (InputSpec(shape=(10, 6)), [Last(nn.LSTM(6, 16, batch_first=True)), nn.Linear(16, 5)]),
    "RNN": (InputSpec(shape=(10, 6)), [Last(nn.RNN(6, 16, batch_first=True)), nn.Linear(16, 5)]),
    "Linear, BatchNorm": (InputSpec(shape=(20,)), [nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 5)]),
}


def errors_of(name, precision="int8", **limit):
    spec, modules = HEADS[name]
    module = client(modules).eval()
    _, state, values = described(module, spec, SGD, "none")
    inference = trace_inference(module, state, examples(spec, 5, seed=1))
    samples = examples(spec, 64, seed=3).numpy()
    form = Form("tflite", precision=precision, samples=samples, **limit)
    written = write(inference, None, form)
    arrays = {key: value.numpy() for key, value in values.items()}
    return reduction_of(written.graphs.inference, written.reduced, arrays, samples, form, nn.Identity())


@pytest.mark.parametrize("name", HEADS)
def test_int8_answers_as_float32_does(name):
    """Products with a scale per channel gave one answer for every input, and moving averages of ranges clipped."""
    assert 0 < errors_of(name).error < 0.03


def test_more_error_than_allowed_is_refused():
    with pytest.raises(UserError, match=r"changes smashed data by 1\.\d% of their size, allowed: up to 0\.1%"):
        errors_of("Linear, BatchNorm", max_error=0.001)


def test_accuracy_is_that_of_the_whole_model_beside_float32(tmp_path, capsys):
    """The server's half makes the scores; here of half a model cut in the middle, with every third label wrong."""
    torch.manual_seed(0)
    model = LeNet()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    with torch.no_grad():
        y = model.eval()(torch.from_numpy(SAMPLES)).argmax(1).numpy()
    y[::3] = (y[::3] + 1) % 10
    np.savez(tmp_path / "samples.npz", x=SAMPLES, y=y.astype(np.uint8))
    options = Options(
        "cutlayer_cut.zoo.lenet:LeNet",
        "features.2",
        "1x28x28",
        "{}",
        str(tmp_path / "weights.pt"),
        "",
        "none",
        "tflite",
        precision="int8",
        calibration=tmp_path / "samples.npz",
    )
    export(None, options, tmp_path / "less.bundle", fresh=True, as_json=False)
    exact, reduced = read_bundle(tmp_path / "less.bundle").certificate.precision_accuracies
    assert exact == 16 / 24
    assert abs(reduced - exact) < 0.2
    printed = capsys.readouterr().out
    assert f"accuracy {reduced:.1%} instead of 66.7% in float32, on 24 calibration samples" in printed
