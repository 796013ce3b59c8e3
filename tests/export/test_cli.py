"""``cutlayer export`` as its user calls it."""

import json
import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cutlayer.cli.main import app
from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_cut.zoo.digits import DigitsNet
from cutlayer_device.engines import load_engine

MODEL = ["--model", "cutlayer_cut.zoo.digits:DigitsNet", "--example", "1x8x8"]
TEXT = ["--model", "cutlayer_cut.zoo.text_encoder:TextEncoder", "--example", "6:int64:0..19"]
SMALL = '{"vocabulary": 20, "width": 8, "heads": 2, "hidden": 16, "length": 6, "dropout": 0.1}'


def export(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_a_model_of_ones_own_is_exported_without_a_trial_file(tmp_path):
    out = tmp_path / "client.zip"
    result = export(*MODEL, "--cut", "stem.2", "--optimizer", "adamw:learning_rate=0.002,clip_norm=1", "--out", out)
    assert result.exit_code == 0, result.output
    assert "1,248 parameters" in result.output
    client = read_bundle(out).manifest.client
    assert (client.cut, client.optimizer.learning_rate, client.optimizer.clip_norm) == ("stem.2", 0.002, 1.0)


@pytest.mark.slow
def test_tokens_are_described_by_dtype_and_range(tmp_path):
    result = export(*TEXT, "--kwargs", SMALL, "--cut", "layers.0", "--out", tmp_path / "b", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["manifest"]["client"]["input"] == {"low": 0, "high": 19, "shape": [6], "dtype": "int64"}
    assert max(found["certificate"]["errors"].values()) < 1e-4
    engine = load_engine(read_bundle(tmp_path / "b"), threads=1)
    tokens = np.arange(12).reshape(2, 6)
    draws = [engine.forward(tokens, seed).copy() for seed in (1, 1, 2)]
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any(), "the seed decides what dropout draws"


def test_a_whole_model_infers_with_the_weights_of_a_file(tmp_path):
    torch.manual_seed(3)
    model = DigitsNet().eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    result = export(*MODEL, "--cut", "none", "--weights", tmp_path / "weights.pth", "--out", tmp_path / "b")
    assert result.exit_code == 0, result.output
    assert {file.name for file in (tmp_path / "b").iterdir()} == {
        "manifest.json", "certificate.json", "params.safetensors", "inference.onnx",
    }  # fmt: skip
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        wanted = model(x).numpy()
    engine = load_engine(read_bundle(tmp_path / "b"), threads=1)
    np.testing.assert_allclose(engine.infer(x.numpy()), wanted, rtol=1e-4, atol=1e-5)


def test_a_frozen_client_has_no_training_graphs(tmp_path):
    result = export(*MODEL, "--cut", "stem", "--freeze", "--out", tmp_path / "b")
    assert result.exit_code == 0, result.output
    assert "frozen" in result.output
    assert read_bundle(tmp_path / "b").manifest.client.optimizer is None


def test_only_the_last_modules_are_trained(tmp_path):
    result = export(*MODEL, "--cut", "body", "--trainable", "last:2", "--out", tmp_path / "b")
    assert result.exit_code == 0, result.output
    owners = {name.rpartition(".")[0] for name in read_bundle(tmp_path / "b").manifest.client.params}
    assert owners == {"stem.2", "body.0"}


def test_the_cuts_are_listed_as_a_table_and_as_json():
    result = export(*MODEL, "--list")
    assert result.exit_code == 0, result.output
    assert re.search(r"stem +16x4x4 +1,024 +256 +1,248", result.output)
    rows = {row["cut"]: row for row in json.loads(export(*MODEL, "--list", "--json").stdout)}
    assert rows["stem"]["smashed_shape"] == [16, 4, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a trial file, or --model, --example, --cut"),
        (["--model", "m:f", "--example", "3"], "give a trial file, or --cut"),
        ([*MODEL, "--cut", "stm"], "did you mean 'stem'"),
        ([*MODEL, "--cut", "stem", "--example", "1,8,8"], "--example: found '1,8,8', allowed: sizes as in 3x32x32"),
        ([*MODEL, "--cut", "stem", "--example", "1x8x8:int8"], "input_dtype: found 'int8', allowed: .*float32.*int64"),
        ([*TEXT[:2], "--example", "6:int64", "--cut", "embedding"], "input_range: found 0 to 0, allowed"),
        ([*MODEL, "--cut", "stem", "--kwargs", "[1]"], "--kwargs: found '\\[1\\]', allowed: a JSON object"),
        ([*MODEL, "--cut", "stem", "--kwargs", '{"depth": 3}'], "model.kwargs: .* does not take them"),
        ([*MODEL, "--cut", "stem", "--optimizer", "sgdd"], "--optimizer: .*'sgdd'"),
        ([*MODEL, "--cut", "stem", "--optimizer", "sgd:momentum"], "--optimizer: found 'momentum', allowed: a setting"),
        ([*MODEL, "--cut", "stem", "--optimizer", "sgd:beta1=0.9"], "--optimizer: .*unknown key 'beta1'"),
        ([*MODEL, "--cut", "stem", "--optimizer", "sgd:momentum=1.5"], "momentum: found 1.5"),
        ([*MODEL, "--cut", "stem", "--trainable", "last:0"], "trainable: found 'last:0', allowed"),
        ([*MODEL, "--cut", "stem", "--weights", "none.pth"], "model.weights: none.pth cannot be read"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_the_option_and_the_mend(tmp_path, arguments, message):
    result = export(*arguments, "--out", tmp_path / "b")
    assert result.exit_code == 2, result.output
    assert re.search(message, result.stderr), result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "b").exists()
