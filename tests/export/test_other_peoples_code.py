"""Models as others write them: each is exported, or refused in one line that says what to change."""

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from clients import SGD, certified_cut
from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.errors import UserError
from cutlayer_core.trial.recipe import InputSpec, Model, Recipe
from cutlayer_cut import build_model, cut_model
from cutlayer_export.export import export_bundle
from cutlayer_export.graph.form import Form
from harness import digits_trial, run_trial
from other_models import (
    Attention,
    Block,
    Chain,
    Listener,
    Repeated,
    Video,
    WithNothing,
    channels_last,
    pruned,
    scripted,
)

VECTOR, FRAMES, SIGNAL = InputSpec(shape=(8,)), InputSpec(shape=(4, 1, 6, 6)), InputSpec(shape=(64,))
ENGINES = pytest.mark.parametrize("form", [Form(), Form("tflite")], ids=["onnx", "tflite"])


@ENGINES
@pytest.mark.parametrize(
    ("model", "cut", "spec"),
    [
        (Attention(), "attention", InputSpec(shape=(5, 8))),
        (Video(), "encoder", FRAMES),
        (Video(), "over_time", FRAMES),
        (Chain(scripted(Block())), "block", VECTOR),
        (Chain(WithNothing(), lambda found: found[0]), "block", VECTOR),
        (channels_last(), "2", InputSpec(shape=(3, 8, 8))),
        (pruned(), "block", VECTOR),
        (Listener(), "second", SIGNAL),
        (Listener(hard=True), "second", SIGNAL),
        (Repeated(), "layers.0", VECTOR),
        (Repeated(hard=True), "layers.0", VECTOR),
    ],
    ids=[
        "attention",
        "frames",
        "recurrent",
        "compiled",
        "none",
        "channels_last",
        "pruned",
        "audio",
        "audio, traced",
        "called again",
        "called again, traced",
    ],
)
def test_what_used_to_end_in_a_traceback_is_exported(model, cut, spec, form):
    assert certified_cut(model, cut, spec, form).valid


def test_frames_of_one_sample_travel_together():
    client = cut_model(recipe("Video", FRAMES, cut="encoder")).client
    assert client(torch.randn(5, 4, 1, 6, 6)).shape == (5, 4, 16)


def recipe(factory, spec=VECTOR, cut="block", **kwargs):
    model = Model(
        factory=f"other_models:{factory}",
        cut=cut,
        kwargs=kwargs,
        input_shape=spec.shape,
        input_dtype=spec.dtype,
    )
    return Recipe(name="others", model=model, optimizer=SGD)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (recipe("time_major", FRAMES, "encoder"), "cannot be cut at 'encoder': its rows are not sorted by sample"),
        (recipe("compiled"), r"torch\.jit has compiled; return it as it was before"),
        (recipe("compiled_inside", cut="block.0"), r"'block' is compiled by torch\.jit.*cut before or after it"),
        (recipe("halved"), r"'first\.weight' is bfloat16, allowed: float32; return the model as model\.float\(\)"),
        (recipe("double"), r"'first\.weight' is float64, allowed: float32"),
        (recipe("Pair"), r"takes 2 inputs \(x, other\), allowed: one tensor; wrap it"),
        (recipe("Autocast"), r"^model\.cut: the model cannot be cut at 'block': its code uses torch\.autocast, [^;]*; [^;]*$"),
        (recipe("ByValue"), r"decides by the values of tensors at .*other_models\.py:\d+: if y\.sum\(\) > 0:"),
        (recipe("Repeated", cut="layers.2"), r"'layers\.2' is the same module as 'layers\.0'; cut at 'layers\.0'"),
        (recipe("Repeated", cut="between"), r"the parameter layers\.0\.weight is used before and after it"),
        (recipe("Ignored"), "what 'block' gives out is not used after it"),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_is_refused_in_one_line(given, message, capfd):
    with pytest.raises(UserError, match=message) as refused:
        cut_model(given)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", ""), "torch printed what it knows"


def test_a_model_stored_channels_last_is_trained_and_saved(digits, tmp_path):
    """Its weights lie in another order than safetensors takes."""
    trial = digits_trial(digits, epochs=1)
    model = msgspec.structs.replace(trial.model, factory="other_models:digits_channels_last", cut="0")
    trial = msgspec.structs.replace(trial, model=model)
    export_bundle(trial.recipe, tmp_path / "client.bundle")
    run, _ = run_trial(digits, trial, tmp_path / "run", bundle=read_bundle(tmp_path / "client.bundle"))
    assert load_file(run.path / "model.safetensors").keys() == build_model(model, 0).state_dict().keys()
