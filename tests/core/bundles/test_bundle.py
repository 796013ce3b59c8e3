import hashlib
import json
import zipfile

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save

from cutlayer_core.bundles import contents
from cutlayer_core.bundles.bundle import (
    FORMAT_VERSION,
    Client,
    Manifest,
    check_place,
    read_bundle,
    write_bundle,
)
from cutlayer_core.bundles.certificate import Certificate
from cutlayer_core.errors import UserError
from cutlayer_core.trial.optimizers import Sgd
from cutlayer_core.trial.recipe import InputSpec, Spec

CLIENT = Client(
    factory="m:f",
    kwargs={},
    cut="stem",
    input=InputSpec(shape=(2,)),
    smashed=Spec(shape=(3,)),
    params={"w": Spec(shape=(3, 2))},
    buffers={},
    constants="",
    optimizer=Sgd(learning_rate=0.1),
    mean=(0.0,),
    std=(1.0,),
    classes=(),
)


def manifest(**changes):
    fields = {
        "format_version": FORMAT_VERSION, "trial": "t", "client": CLIENT, "engine": "onnx",
        "opset": 18, "versions": {}, "files": {},
    }  # fmt: skip
    return Manifest(**{**fields, **changes})


def certificate(error=1e-6):
    errors = {"inference.z": 0.0, "z": 0.0, "gradients.w": 0.0, "params.w": error}
    return Certificate(steps=5, batch_sizes=(2,), errors=errors)


FILES = {
    "inference.onnx": b"inference",
    "forward.onnx": b"forward",
    "backward.onnx": b"backward",
    "params.safetensors": save({"params.w": np.zeros((3, 2), np.float32)}),
    "certificate.json": msgspec.json.encode(certificate()),
}


@pytest.mark.parametrize("name", ["b", "b.zip"])
def test_a_bundle_is_read_as_it_was_written(tmp_path, name):
    write_bundle(tmp_path / name, manifest(), FILES)
    bundle = read_bundle(tmp_path / name)
    assert bundle.manifest.client == CLIENT
    assert bundle.graph("forward") == b"forward"
    assert bundle.arrays()["params.w"].shape == (3, 2)
    bundle.require_certificate()


def test_the_same_bundle_zips_to_the_same_bytes(tmp_path):
    for name in ("a.zip", "b.zip"):
        write_bundle(tmp_path / name, manifest(), FILES)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_the_fingerprint_tells_models_apart():
    other = msgspec.structs.replace(CLIENT, cut="body")
    assert CLIENT.fingerprint == msgspec.structs.replace(CLIENT).fingerprint
    assert CLIENT.fingerprint != other.fingerprint


@pytest.mark.parametrize("file", FILES)
def test_an_edited_a_truncated_and_a_missing_file_are_refused(tmp_path, file):
    write_bundle(tmp_path / "b", manifest(), FILES)
    content = (tmp_path / "b" / file).read_bytes()
    for changed in (content[:-1], content[:-1] + b"X"):
        (tmp_path / "b" / file).write_bytes(changed)
        with pytest.raises(UserError, match=f"{file} was changed"):
            read_bundle(tmp_path / "b")
    (tmp_path / "b" / file).unlink()
    with pytest.raises(UserError, match=f"{file} is missing"):
        read_bundle(tmp_path / "b")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b"])
def test_a_manifest_cannot_reach_outside_its_folder(tmp_path, name):
    write_bundle(tmp_path / "b", manifest(), FILES)
    path = tmp_path / "b" / "manifest.json"
    edited = json.loads(path.read_text())
    edited["files"][name] = hashlib.sha256(b"").hexdigest()
    path.write_text(json.dumps(edited))
    with pytest.raises(UserError, match="which no bundle of its kind has"):
        read_bundle(tmp_path / "b")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda m: m.update(format_version=1),
            f"format version 1, this cutlayer reads {FORMAT_VERSION}: export it again",
        ),
        (lambda m: m.update(extra=1), "manifest.json cannot be read"),
        (lambda m: m["client"].pop("cut"), "manifest.json cannot be read"),
        (lambda m: m["client"]["params"]["w"].update(shape=[2**50]), "as the manifest describes it"),
        (lambda m: m.update(engine="tflite"), "which no bundle of its kind has"),
        (lambda m: m.update(engine="npu"), "found the engine 'npu', allowed: onnx, tflite"),
    ],
)
def test_an_unacceptable_manifest_is_refused_in_one_line(tmp_path, edit, message):
    write_bundle(tmp_path / "b", manifest(), FILES)
    path = tmp_path / "b" / "manifest.json"
    edited = json.loads(path.read_text())
    edit(edited)
    path.write_text(json.dumps(edited))
    with pytest.raises(UserError, match=message) as caught:
        read_bundle(tmp_path / "b")
    assert "\n" not in str(caught.value)


def test_what_is_no_bundle_is_refused(tmp_path):
    (tmp_path / "text.zip").write_text("hello")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "manifest.json").write_text("[]")
    for name in ("none", "text.zip", "list"):
        with pytest.raises(UserError, match="cannot be read"):
            read_bundle(tmp_path / name)


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    """Its directory is enough to refuse it."""
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b" " * 1_000_000)
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    with pytest.raises(UserError, match="would unpack from 1110 to 1000000 bytes"):
        read_bundle(tmp_path / "bomb.zip")
    monkeypatch.undo()
    monkeypatch.setattr(contents, "MAX_BUNDLE_BYTES", 10_000)
    with zipfile.ZipFile(tmp_path / "large.zip", "w") as archive:
        archive.writestr("manifest.json", b" " * 9_000)
        archive.writestr("params.safetensors", b" " * 2_000)
    with pytest.raises(UserError, match="has 11236 bytes, allowed: up to 10000"):
        read_bundle(tmp_path / "large.zip")


def test_a_file_that_is_longer_than_its_zip_lists_is_not_read_further(tmp_path):
    write_bundle(tmp_path / "b.zip", manifest(), FILES)
    content = (tmp_path / "b.zip").read_bytes()
    at = content.rindex(b"forward.onnx") - 46  # its entry in the directory
    assert content[at : at + 4] == b"PK\x01\x02"
    (tmp_path / "b.zip").write_bytes(content[: at + 24] + (3).to_bytes(4, "little") + content[at + 28 :])
    with pytest.raises(UserError, match=r"forward\.onnx (cannot be read|was changed)"):
        read_bundle(tmp_path / "b.zip")


@pytest.mark.parametrize("name", ["b", "b.zip"])
def test_a_file_that_does_not_belong_is_refused_by_name(tmp_path, name):
    write_bundle(tmp_path / name, manifest(), FILES)
    if name == "b":
        (tmp_path / name / "run.sh").write_text("echo")
    else:
        with zipfile.ZipFile(tmp_path / name, "a") as archive:
            archive.writestr("run.sh", "echo")
    with pytest.raises(UserError, match=r"holds 'run\.sh', which no bundle of its kind has"):
        read_bundle(tmp_path / name)


def test_a_zip_that_lists_a_name_twice_is_refused(tmp_path):
    write_bundle(tmp_path / "b.zip", manifest(), FILES)
    with zipfile.ZipFile(tmp_path / "b.zip", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("forward.onnx", "other")
    with pytest.raises(UserError, match="lists 7 files, some twice"):
        read_bundle(tmp_path / "b.zip")


def test_a_bundle_is_written_over_one_of_another_engine_but_not_into_other_peoples_files(tmp_path):
    write_bundle(tmp_path / "b", manifest(), FILES)
    other = {name.replace("onnx", "tflite"): content for name, content in FILES.items()}
    write_bundle(tmp_path / "b", msgspec.structs.replace(manifest(), engine="tflite"), other)
    assert read_bundle(tmp_path / "b").manifest.engine == "tflite"
    (tmp_path / "b" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"--out: .*b holds 'thesis\.tex'.*a folder of its own"):
        check_place(tmp_path / "b")
    check_place(tmp_path / "new")


@pytest.mark.parametrize("error", [2e-4, float("nan"), float("inf")])
def test_a_certificate_that_fails_does_not_allow_training(error):
    assert not certificate(error).valid


def test_training_needs_a_certificate(tmp_path):
    without = {name: content for name, content in FILES.items() if name != "certificate.json"}
    write_bundle(tmp_path / "none", manifest(), without)
    with pytest.raises(UserError, match=r"no certificate\.json"):
        read_bundle(tmp_path / "none").require_certificate()
    write_bundle(tmp_path / "bad", manifest(), FILES | {"certificate.json": msgspec.json.encode(certificate(1.0))})
    with pytest.raises(UserError, match=r"an error of 1\.0e\+00"):
        read_bundle(tmp_path / "bad").require_certificate()


def test_a_certificate_must_speak_of_every_tensor(tmp_path):
    partial = Certificate(steps=5, batch_sizes=(2,), errors={"inference.z": 0.0, "z": 0.0, "params.w": 0.0})
    write_bundle(tmp_path / "b", manifest(), FILES | {"certificate.json": msgspec.json.encode(partial)})
    with pytest.raises(UserError, match=r"says nothing of gradients\.w"):
        read_bundle(tmp_path / "b").require_certificate()


def test_a_frozen_bundle_needs_one_graph_and_does_not_train(tmp_path):
    client = msgspec.structs.replace(CLIENT, params={}, constants="abc", optimizer=None)
    frozen = {
        "inference.onnx": b"inference",
        "params.safetensors": save({}),
        "certificate.json": msgspec.json.encode(Certificate(steps=5, batch_sizes=(2,), errors={"inference.z": 0.0})),
    }
    write_bundle(tmp_path / "b", manifest(client=client), frozen)
    bundle = read_bundle(tmp_path / "b")
    bundle.require_certificate()
    with pytest.raises(UserError, match="a frozen model, which cannot be trained"):
        bundle.require_training()
    write_bundle(tmp_path / "more", manifest(client=client), frozen | {"backward.onnx": b"backward"})
    with pytest.raises(UserError, match="which no bundle of its kind has"):
        read_bundle(tmp_path / "more")


def test_tensors_that_the_manifest_does_not_describe_are_refused(tmp_path):
    for extra in ({"params.other": np.zeros(3, np.float32)}, {"state.momentum.w": np.array([np.nan], np.float32)}):
        params = save({"params.w": np.zeros((3, 2), np.float32), **extra})
        write_bundle(tmp_path / "b", manifest(), FILES | {"params.safetensors": params})
        with pytest.raises(UserError, match=next(iter(extra))):
            read_bundle(tmp_path / "b")


def test_a_link_is_not_followed(tmp_path):
    write_bundle(tmp_path / "b", manifest(), FILES)
    content = tmp_path / "elsewhere"
    (tmp_path / "b" / "forward.onnx").rename(content)
    (tmp_path / "b" / "forward.onnx").symlink_to(content)
    with pytest.raises(UserError, match=r"forward\.onnx is missing or no plain file"):
        read_bundle(tmp_path / "b")


ARRANGED = {"forward@direct.onnx": b"other forward", "backward@direct.onnx": b"other backward"}


def test_another_arrangement_trains_by_its_own_graphs(tmp_path):
    sure = msgspec.structs.replace(certificate(), arrangements={"direct": 1e-6})
    files = FILES | ARRANGED | {"certificate.json": msgspec.json.encode(sure)}
    write_bundle(tmp_path / "b", manifest(arrangements=("direct",)), files)
    bundle = read_bundle(tmp_path / "b")
    bundle.require_certificate()
    assert bundle.graph("forward") == b"forward"
    other = bundle.arranged("direct")
    graphs = [other.graph(name) for name in ("inference", "forward", "backward")]
    assert graphs == [b"inference", b"other forward", b"other backward"]
    assert other.arrays()["params.w"].shape == (3, 2)
    with pytest.raises(UserError, match="no arrangement 'winograd'"):
        bundle.arranged("winograd")
    write_bundle(tmp_path / "b", manifest(), FILES)
    assert not list((tmp_path / "b").glob("*@*")), "files of the bundle before are gone"


@pytest.mark.parametrize(
    ("arrangements", "files", "found", "message"),
    [
        (("sideways",), ARRANGED, {}, "names the arrangement 'sideways', which this cutlayer lacks"),
        ((), ARRANGED, {}, r"names '\w+@direct\.onnx', which no bundle of its kind has"),
        (("direct",), {}, {}, r"does not list backward@direct\.onnx"),
        (("direct",), ARRANGED, {}, "says nothing of direct"),
        (("direct",), ARRANGED, {"direct": 1e-3}, r"shows an error of 1\.0e-03"),
    ],
)
def test_an_arrangement_without_its_files_or_a_certificate_is_refused(tmp_path, arrangements, files, found, message):
    sure = msgspec.structs.replace(certificate(), arrangements=found)
    files = FILES | files | {"certificate.json": msgspec.json.encode(sure)}
    write_bundle(tmp_path / "b", manifest(arrangements=arrangements), files)
    with pytest.raises(UserError, match=message):
        read_bundle(tmp_path / "b").require_certificate()
