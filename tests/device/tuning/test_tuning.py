"""What `cutlayer device tune` finds is kept, and counts where it was found."""

import json
import logging

import msgspec
import pytest
from typer.testing import CliRunner

from clients import SGD
from cutlayer.cli.main import app
from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.errors import UserError
from cutlayer_core.trial.recipe import Model, Recipe
from cutlayer_device.tuning.measurement import measure_arrangements
from cutlayer_device.tuning.tuning import OWN, Tuned, Tuning, fingerprint_of
from cutlayer_export.export import export_bundle
from cutlayer_export.graph.form import Form


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("tuned") / "b.zip"
    model = Model(factory="other_models:convolutions", cut="3", input_shape=(3, 8, 8))
    export_bundle(Recipe(name="t", model=model, optimizer=SGD), path, form=Form(arrangements=True))
    return read_bundle(path)


def faster(found, name):
    """As if an arrangement were twice as fast as the bundle's own."""
    return msgspec.structs.replace(found, step_ms={OWN: 10.0, name: 5.0})


@pytest.mark.parametrize(
    ("step_ms", "choice"),
    [
        ({OWN: 10.0, "direct": 12.0}, OWN),
        ({OWN: 10.0, "direct": 9.9}, OWN),
        ({OWN: 10.0, "direct": 9.0, "winograd": 8.0}, "winograd"),
    ],
)
def test_the_fastest_is_chosen_unless_it_gains_next_to_nothing(step_ms, choice):
    fields = {"graphs": "", "machine": "", "runtime": "", "threads": 1, "batch_size": 8}
    assert Tuned(**fields, step_ms=step_ms).choice == choice


def test_a_board_trains_by_what_was_found_on_it(bundle, tmp_path):
    tuning, [name, *_] = Tuning(tmp_path), bundle.manifest.arrangements
    found = measure_arrangements(bundle, batch_size=4, threads=1, seconds=0.1)
    assert found.step_ms.keys() == {OWN, *bundle.manifest.arrangements}
    assert all(each > 0 for each in found.step_ms.values())
    tuning.keep(faster(found, name))
    tuning.keep(faster(msgspec.structs.replace(found, threads=2), name))
    engine, said = tuning.engine(bundle, threads=1)
    assert said == f"arrangement {name}: 5.00 ms a step instead of 10.00, as measured"
    assert engine._bundle.graph("forward") == bundle.arranged(name).graph("forward")


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"graphs": "0"}, ""),
        ({"threads": 3}, ""),
        ({"machine": "another"}, "run `cutlayer device tune` again"),
        ({"runtime": "onnxruntime 1.0"}, "run `cutlayer device tune` again"),
    ],
)
def test_what_was_found_elsewhere_does_not_count(bundle, tmp_path, caplog, change, warning):
    [name, *_] = bundle.manifest.arrangements
    found = faster(measure_arrangements(bundle, 2, 1, 0.1), name)
    Tuning(tmp_path).keep(msgspec.structs.replace(found, **change))
    with caplog.at_level(logging.WARNING):
        engine, said = Tuning(tmp_path).engine(bundle, threads=1)
    assert said == ""
    assert engine._bundle is bundle
    assert warning in caplog.text


def test_a_broken_file_is_named(bundle, tmp_path):
    (tmp_path / "tuning.json").write_text("[{")
    with pytest.raises(UserError, match=r"tuning\.json: cannot be read; delete it"):
        Tuning(tmp_path).engine(bundle, threads=1)


def test_the_command_measures_prints_and_keeps(bundle, tmp_path):
    bundle.write(tmp_path / "b.zip")
    words = ["device", "tune", "--bundle", str(tmp_path / "b.zip"), "--state", str(tmp_path), "--seconds", "0.1"]
    done = CliRunner().invoke(app, [*words, "--threads", "1"])
    assert done.exit_code == 0
    assert "ms a step" in done.output
    assert f"kept in {tmp_path}" in done.output
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert found["choice"] in found["tuned"]["step_ms"]
    kept = json.loads((tmp_path / "tuning.json").read_text())
    assert [each["threads"] for each in kept] == [1, 0], "one entry a number of threads"
    assert {each["graphs"] for each in kept} == {fingerprint_of(bundle)}


def test_a_bundle_with_one_arrangement_is_refused_with_the_way_out(digits, tmp_path):
    words = ["device", "tune", "--bundle", str(digits / "client.bundle"), "--state", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "export it with --arrangements" in done.output
