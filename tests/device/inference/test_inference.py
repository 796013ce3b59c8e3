"""Inference on the board: with a whole model, and split between a board and a server."""

import json
import threading
from contextlib import closing

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.errors import CutlayerError, PeerLost, UserError
from cutlayer_core.samples import data
from cutlayer_core.samples.inputs import read_inputs
from cutlayer_core.trial.trial import read_trial
from cutlayer_core.wire import topics
from cutlayer_core.wire.chunks import split
from cutlayer_core.wire.endpoint import Endpoint
from cutlayer_core.wire.messages import Message, Query, Tensor, Weights, encode
from cutlayer_core.wire.presence import will_of
from cutlayer_core.wire.transports import MemoryBroker
from cutlayer_cut import build_model
from cutlayer_device.cli import app
from cutlayer_device.inference.inference import LocalClassifier, SplitClassifier, classify
from cutlayer_device.training.agent import birth_of
from cutlayer_export import export_bundle
from cutlayer_server.inference import InferenceService
from cutlayer_server.training.coordinator import birth_of as server_birth


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """A folder with a model's weights, other than the trial's initial ones, and the whole model as a bundle."""
    folder, recipe = tmp_path_factory.mktemp("trained"), read_trial(digits / "trial.toml").recipe
    save_file(build_model(recipe.model, seed=77).state_dict(), folder / "model.safetensors")
    model = msgspec.structs.replace(recipe.model, cut="none", weights=str(folder / "model.safetensors"))
    classes = tuple(f"digit {number}" for number in range(10))
    export_bundle(msgspec.structs.replace(recipe, model=model, classes=classes), folder / "whole.zip")
    return folder


@pytest.fixture
def wanted(digits, trained):
    """Class probabilities that torch gives for the first test samples."""
    trial = read_trial(digits / "trial.toml")
    model = msgspec.structs.replace(trial.model, weights=str(trained / "model.safetensors"))
    samples = data.load(digits / "test.npz", trial.model.input, part="test")
    prepare = data.Preparation(trial.model.input, trial.data.mean, trial.data.std)
    with torch.no_grad():
        scores = build_model(model, 0).eval()(torch.from_numpy(prepare(samples.x[:50])))
    return samples.x[:50], scores.softmax(1).numpy()


def test_a_whole_model_on_the_board_gives_what_torch_gives(trained, wanted):
    bundle = read_bundle(trained / "whole.zip")
    samples, probabilities = wanted
    found = np.stack(list(classify(LocalClassifier(bundle, threads=1), bundle, samples, batch_size=16)))
    np.testing.assert_allclose(found, probabilities, atol=1e-5)


def test_a_part_of_a_model_does_not_classify_alone(digits):
    with pytest.raises(UserError, match=r"give --broker .*or export the whole model with --cut none"):
        LocalClassifier(read_bundle(digits / "client.bundle"))


@pytest.fixture
def service(digits, trained):
    """A running server, and the memory broker it is at."""
    trial = read_trial(digits / "trial.toml")
    broker, going, birth = MemoryBroker(), threading.Event(), server_birth(trial, serves=True)
    server = InferenceService(trial, trained / "model.safetensors")
    transport = broker.connect(will_of(topics.control(trial.name), birth))
    going.set()
    thread = threading.Thread(target=server.run, args=(birth, transport, going.is_set), daemon=True)
    thread.start()
    yield server, broker
    going.clear()
    thread.join(timeout=10)
    transport.close()


def ask(broker, bundle, name, samples):
    birth = birth_of(bundle, "demo", name, 0)
    transport = broker.connect(will_of(topics.state("demo", name), birth))
    with (
        closing(transport),
        closing(SplitClassifier(bundle, birth, transport, patience_s=10.0, threads=1)) as classifier,
    ):
        return np.stack(list(classify(classifier, bundle, samples, batch_size=16)))


def test_a_server_that_trains_is_told_from_one_that_answers(digits, wanted):
    broker, trial = MemoryBroker(), read_trial(digits / "trial.toml")
    broker.connect().publish_retained(topics.control("demo"), encode(Message(server_birth(trial))))
    with pytest.raises(CutlayerError, match="the server trains and does not answer queries: start it with --infer"):
        ask(broker, read_bundle(digits / "client.bundle"), "board-1", wanted[0])


def test_who_finds_the_name_taken_does_not_say_goodbye_for_its_owner(digits, service, wanted, monkeypatch):
    monkeypatch.setattr(Endpoint.claim, "__defaults__", (0.5, 0))
    _, broker = service
    bundle, state = read_bundle(digits / "client.bundle"), topics.state("demo", "board-1")
    owner = encode(Message(birth_of(bundle, "demo", "board-1", 10)))
    broker.connect().publish_retained(state, owner)
    with pytest.raises(PeerLost, match="there is another device named 'board-1'"):
        ask(broker, bundle, "board-1", wanted[0])
    watcher = broker.connect()
    watcher.subscribe(state)
    assert watcher.receive(1.0).payload == owner


def test_board_and_server_together_give_what_torch_gives(digits, service, wanted):
    server, broker = service
    samples, probabilities = wanted
    bundle = read_bundle(digits / "client.bundle")
    for name in ("board-1", "board-2", "board-1"):  # one after the other, and one again
        found = ask(broker, bundle, name, samples)
        assert (found.argmax(1) == probabilities.argmax(1)).mean() > 0.9
        assert np.abs(found - probabilities).mean() < 0.02, "smashed data travel as FP8"
    assert server.answered == 150


def test_a_stranger_and_another_bundle_are_refused(digits, service, wanted):
    _, broker = service
    bundle = read_bundle(digits / "client.bundle")
    with pytest.raises(CutlayerError, match="stranger was refused: its name is not in the trial file"):
        ask(broker, bundle, "stranger", wanted[0])
    bundle.manifest = msgspec.structs.replace(
        bundle.manifest, client=msgspec.structs.replace(bundle.manifest.client, factory="m:other")
    )
    with pytest.raises(CutlayerError, match="board-1 was refused: its bundle is another"):
        ask(broker, bundle, "board-1", wanted[0])


@pytest.mark.parametrize("nonsense", [
    Weights(epoch=0, steps=0, phases_s={}), Query(step=5, tensor=Tensor("fp8", {}, (1, 16, 4, 4))),
    Query(step=0, tensor=Tensor("fp8", {}, (1, 9))), b"hello",
])  # fmt: skip
def test_a_device_that_talks_nonsense_is_dismissed_and_the_others_are_served(digits, service, wanted, nonsense):
    _, broker = service
    bundle = read_bundle(digits / "client.bundle")
    birth = birth_of(bundle, "demo", "board-2", 0)
    transport = broker.connect(will_of(topics.state("demo", "board-2"), birth))
    SplitClassifier(bundle, birth, transport, patience_s=10.0, threads=1)
    payload = nonsense
    if not isinstance(nonsense, bytes):
        payload = encode(Message(msgspec.structs.replace(nonsense, trial="demo", device="board-2")))
    for chunk in split(payload, birth.epoch, message_id=0):
        transport.publish(topics.up("demo", "board-2"), chunk.pack())
    assert ask(broker, bundle, "board-1", wanted[0]).shape == (50, 10)
    transport.close()


def test_files_and_folders_are_read(tmp_path, digits):
    spec = read_trial(digits / "trial.toml").model.input
    (tmp_path / "deep" / "er").mkdir(parents=True)
    Image.new("RGB", (20, 10), (255, 255, 255)).save(tmp_path / "deep" / "er" / "white.png")
    Image.new("L", (8, 8), 0).save(tmp_path / "black.jpg")
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8), np.uint8))
    found = read_inputs([tmp_path / "deep", tmp_path / "black.jpg", tmp_path / "a.npy"], spec)
    assert [name.rsplit("/", 1)[1] for name in found.names] == ["white.png", "black.jpg", "a.npy[0]", "a.npy[1]"]
    assert found.x.shape == (4, 1, 8, 8)
    assert found.x[0].min() == 255
    assert found.y is None
    (tmp_path / "empty").mkdir()
    for path, message in (("none.png", "does not exist"), ("empty", "holds no images")):
        with pytest.raises(UserError, match=message):
            read_inputs([tmp_path / path], spec)
    np.save(tmp_path / "bad.npy", np.zeros((2, 9), np.uint8))
    with pytest.raises(UserError, match=r"found shape \(2, 9\), allowed: \(samples, \(1, 8, 8\)\)"):
        read_inputs([tmp_path / "bad.npy"], spec)


def test_the_command_prints_the_likeliest_classes_and_the_accuracy(digits, trained, monkeypatch):
    monkeypatch.setattr("cutlayer_device.cli.forbid_torch", lambda: None)
    arguments = ["infer", str(digits / "test.npz"), "--bundle", str(trained / "whole.zip"), "--top", "2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{digits / 'test.npz'}[0]  digit ")
    assert lines[0].count("%") == 2
    assert " of 360 right" in lines[-1]
    first, *_, last = CliRunner().invoke(app, [*arguments, "--json"]).stdout.splitlines()
    assert len(json.loads(first)["top"]) == 2
    assert json.loads(last)["samples"] == 360
