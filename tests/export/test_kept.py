"""Exports that are not done again: what finds them, and whatever changes makes them be done again."""

import os
import subprocess
import sys
import time
from contextlib import suppress

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save

from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.errors import UserError
from cutlayer_core.trial.optimizers import Sgd
from cutlayer_core.trial.recipe import Model, Recipe
from cutlayer_export.graph.form import Form
from cutlayer_export.kept import KeptExports, export_once
from cutlayer_export.sources import Sources, packages, unchanged

FACTORY = """
import json
from pathlib import Path
from torch import nn
from kept_layers import layer

def build(width=4):
    first = json.loads(Path("widths.json").read_text())["first"]
    return nn.Sequential(nn.Flatten(), layer(4, first), nn.ReLU(), nn.Linear(first, 2))
"""
LAYERS = "from torch.nn import Linear as layer\n"
FILES = {"kept_model.py": FACTORY, "kept_layers.py": LAYERS, "widths.json": '{"first": 3}', "w.safetensors": ""}


def weights(value):
    sizes = {"1.weight": (3, 4), "1.bias": (3,), "3.weight": (2, 3), "3.bias": (2,)}
    return save({key: np.full(shape, value, np.float32) for key, shape in sizes.items()})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The working folder, with a model whose code imports other code and reads a file, and with its export."""
    folder = tmp_path_factory.mktemp("work")
    for name, content in FILES.items():
        (folder / name).write_text(content)
    (folder / "w.safetensors").write_bytes(weights(0.5))
    with pytest.MonkeyPatch.context() as changed:
        changed.chdir(folder)
        changed.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        assert not export_once(RECIPE, folder / "client.bundle", Sources()).reused
        yield folder


MODEL = Model(factory="kept_model:build", cut="1", input_shape=(4,), weights="w.safetensors")
RECIPE = Recipe(name="kept", model=MODEL, optimizer=Sgd(learning_rate=0.1))
ONNX = Form()


def kept(recipe=RECIPE, form=ONNX):
    return KeptExports().find(recipe, form) is not None


def test_what_was_exported_is_written_again_from_what_is_kept(place):
    again = export_once(RECIPE, place / "again.zip", Sources())
    assert again.reused
    one, other = (read_bundle(place / each) for each in ("client.bundle", "again.zip"))
    assert one.manifest == other.manifest == again.manifest
    assert one.certificate == other.certificate
    for key, value in one.arrays().items():
        np.testing.assert_array_equal(value, other.arrays()[key])


def test_it_is_not_written_among_other_files(place):
    with pytest.raises(UserError, match="--out"):
        export_once(RECIPE, place, Sources())


def test_other_recipes_and_forms_are_others(place):
    replace = msgspec.structs.replace
    assert kept()
    assert not kept(replace(RECIPE, seed=2))
    assert not kept(replace(RECIPE, optimizer=Sgd(learning_rate=0.2)))
    assert not kept(replace(RECIPE, model=replace(MODEL, kwargs={"width": 5})))
    assert not kept(form=Form("tflite"))
    assert not kept(form=Form(samples=np.zeros((2, 4), np.float32)))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_it_was_made_from_has_changed(place, name):
    before = (place / name).read_bytes()
    assert kept()
    (place / name).write_bytes(before + b"\n")
    assert not kept()
    (place / name).unlink()
    assert not kept()
    (place / name).write_bytes(before)
    assert kept()


def test_another_folder_or_other_packages_are_others(place, tmp_path, monkeypatch):
    with monkeypatch.context() as changed:
        changed.chdir(tmp_path)
        assert not kept()
    assert kept()
    monkeypatch.setattr("cutlayer_export.kept.packages", lambda: ["torch-1.0.dist-info"])
    assert not kept()


@pytest.mark.parametrize("damaged", ["sources.json", "bundle/manifest.json", "bundle/inference.onnx"])
def test_a_damaged_one_does_not_count(place, tmp_path, damaged):
    exports = KeptExports(tmp_path)
    exports.keep(RECIPE, ONNX, read_bundle(place / "client.bundle"), {})
    assert exports.find(RECIPE, ONNX) is not None
    (file,) = tmp_path.glob(f"*/{damaged}")
    file.write_bytes(file.read_bytes()[:-9])
    assert exports.find(RECIPE, ONNX) is None
    exports.keep(RECIPE, ONNX, read_bundle(place / "client.bundle"), {})
    assert exports.find(RECIPE, ONNX) is not None


def test_those_used_longest_ago_go_first(place, tmp_path):
    bundle = read_bundle(place / "client.bundle")
    one, *others = (msgspec.structs.replace(RECIPE, seed=seed) for seed in range(3))
    KeptExports(tmp_path / "one").keep(one, ONNX, bundle, {})
    size = sum(each.stat().st_size for each in (tmp_path / "one").rglob("*") if each.is_file())
    exports = KeptExports(tmp_path / "few", most_bytes=int(2.5 * size))
    for recipe in (one, others[0]):
        exports.keep(recipe, ONNX, bundle, {})
        time.sleep(0.02)
    assert exports.find(one, ONNX) is not None, "which uses it"
    time.sleep(0.02)
    exports.keep(others[1], ONNX, bundle, {})
    assert [exports.find(each, ONNX) is not None for each in (one, *others)] == [True, False, True]


def test_a_disk_that_cannot_be_written_to_keeps_nothing(place, tmp_path):
    (tmp_path / "file").write_text("no folder")
    exports = KeptExports(tmp_path / "file")
    exports.keep(RECIPE, ONNX, read_bundle(place / "client.bundle"), {})
    assert exports.find(RECIPE, ONNX) is None


def test_a_package_that_is_installed_again_is_another(tmp_path, monkeypatch):
    (tmp_path / "mine-1.0.dist-info").mkdir()
    monkeypatch.setattr("cutlayer_export.sources._folders", lambda: (str(tmp_path),))
    before = packages()
    os.utime(tmp_path / "mine-1.0.dist-info", (1, 1))
    assert packages() != before
    assert [each.split()[0] for each in packages()] == ["mine-1.0.dist-info"]


def read_by(read):
    """What is found of files that ``read`` opens."""
    with Sources() as sources:
        read()
    return sources.found()


def test_files_that_are_written_or_belong_to_packages_are_no_sources(tmp_path):
    for name in ("read", "appended"):
        (tmp_path / name).write_text("x")
    sources = Sources()
    with sources:
        (tmp_path / "read").read_text()
        (tmp_path / "written").write_text("y")
    (tmp_path / "read").read_text()
    found = sources.found()
    assert str(tmp_path / "read") in found
    assert str(tmp_path / "written") not in found
    assert not [path for path in found if "site-packages" in path or "/__pycache__/" in path]


def test_a_file_that_changes_while_it_is_exported_is_not_vouched_for(tmp_path):
    """What was read is the old one, what its digest would say is the new one."""
    (tmp_path / "table").write_text("old")

    def read_and_change():
        (tmp_path / "table").read_text()
        time.sleep(0.02)
        (tmp_path / "table").write_text("new")

    assert read_by(lambda: None) is not None
    assert read_by(read_and_change) is None


def test_a_model_that_is_edited_during_its_export_is_not_kept(place):
    recipe = msgspec.structs.replace(RECIPE, seed=7)
    before = (place / "widths.json").read_bytes()
    sources = Sources()
    time.sleep(0.02)
    export_once(recipe, place / "edited.zip", sources, lambda stage: (place / "widths.json").write_bytes(before))
    assert not kept(recipe)


def test_a_link_that_leads_elsewhere_a_file_that_appears_and_weights_beside_are_noticed(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).write_text(name)
    (tmp_path / "weights.safetensors").write_bytes(b"read by a library, not by Python")
    (tmp_path / "link").symlink_to("old")

    def read():
        (tmp_path / "link").read_text()
        with suppress(FileNotFoundError):
            (tmp_path / "local.json").read_text()

    time.sleep(0.02)
    found = {path: said for path, said in read_by(read).items() if str(tmp_path) in path}
    assert unchanged(found)
    for change, back in (
        (lambda: (tmp_path / "local.json").write_text("{}"), (tmp_path / "local.json").unlink),
        (lambda: swap(tmp_path / "link", "new"), lambda: swap(tmp_path / "link", "old")),
        (lambda: (tmp_path / "weights.safetensors").write_bytes(b"other weights, as long as before"), None),
    ):
        change()
        assert not unchanged(found)
        if back:
            back()
            assert unchanged(found)


def swap(link, target):
    link.unlink()
    link.symlink_to(target)


def test_the_second_export_by_command_needs_no_torch_and_says_so(place):
    command = [sys.executable, "-X", "importtime", "-m", "cutlayer", "export", "--model", "kept_model:build"]
    command += ["--cut", "1", "--example", "4", "--weights", "w.safetensors"]

    def run(*more):
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}

    said, imported = run("--fresh")
    assert "as it was exported before" not in said
    assert "torch" in imported
    said, imported = run()
    assert "as it was exported before" in said
    assert "cutlayer_core.bundles.bundle" in imported
    assert "torch" not in imported
    assert msgspec.json.decode(run("--json")[0])["reused"]


@pytest.mark.slow
def test_every_cut_goes_by_the_same_and_leaves_nothing_old_where_an_export_fails(place, tmp_path):
    """Also by what a module reads when it is imported, which happens before the first export."""
    (tmp_path / "table.json").write_text('{"width": 3}')
    model = "import json\nfrom pathlib import Path\nfrom torch import nn\n"
    model += "WIDTH = json.loads(Path('table.json').read_text())['width']\n"
    model += (
        "class Exp(nn.Module):\n  def forward(self, x): return (x[:, :, None] * x[:, None, :]).matrix_exp()[:, 0]\n"
    )
    model += "def build(): return nn.Sequential(nn.Linear(4, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2))\n"
    (tmp_path / "table_model.py").write_text(model)
    command = [sys.executable, "-m", "cutlayer", "export", "--model", "table_model:build", "--example", "4"]
    command += ["--all-cuts", "--out", "cuts"]

    def run(*more):
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run()
    assert "as it was exported before" in run()
    assert "as it was exported before" not in run("--fresh")
    (tmp_path / "table.json").write_text('{"width": 5}')
    assert "as it was exported before" not in run()
    assert read_bundle(tmp_path / "cuts" / "001-0.zip").manifest.client.smashed.shape == (5,)
    (tmp_path / "table_model.py").write_text(model.replace("nn.ReLU()", "Exp()"))
    assert "left out" in run()
    assert not (tmp_path / "cuts" / "002-1.zip").exists()
