import re
from importlib import resources
from pathlib import Path

import msgspec
import pytest

from cutlayer_core.codecs import Fp8
from cutlayer_core.errors import UserError
from cutlayer_core.trial import toml
from cutlayer_core.trial.aggregation import SplitFed
from cutlayer_core.trial.trial import Trial, read_trial

DOCS = Path(__file__).parents[3] / "docs"
TEXT = resources.files("cutlayer.demo").joinpath("trial.toml").read_text("utf-8")


def read(tmp_path, *changes):
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "trial.toml"
    path.write_text(text, "utf-8")
    return read_trial(path)


def test_a_whole_trial_file(tmp_path):
    trial = read(tmp_path, ('id = "sequential"', 'id = "splitfed"'))
    assert trial.devices == ("board-1", "board-2")
    assert trial.codec.up == Fp8("e4m3")
    assert trial.codec.down == Fp8("e4m3")
    assert trial.aggregation == SplitFed()
    assert trial.optimizer.client.momentum == 0.9
    assert trial.model.input.shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 40", "epochs = 'ten'", "epochs: found 'ten', allowed: a whole number, at least 1"),
        ("epochs = 40", "epochs = 0", "epochs: found 0, allowed: a whole number, at least 1"),
        ("epochs = 40", "", "the key 'epochs' is missing"),
        ("epochs = 40", "epochs = 40\nepohcs = 3", "unknown key 'epohcs', .*did you mean 'epochs'"),
        ("target_accuracy = 0.97", "target_accuracy = 97", "target_accuracy: found 97, allowed: .*at most 1"),
        ('"board-2"]', "2]", r"devices\[1\]: found 2, allowed: a text in quotes"),
        ('"board-2"]', '"board-1"]', "devices: found .*, allowed: different names"),
        ('"board-2"]', '"board/2"]', "devices: 'board/2': use 1 to 64"),
        ('name = "demo"', 'name = "a b"', "name: 'a b': use 1 to 64"),
        ('devices = ["board-1", "board-2"]', "devices = []", "devices: found"),
        ("[1, 8, 8]", "[1, 8, 'x']", r"model.input_shape\[2\]: found 'x', allowed: a whole number"),
        ("digits:DigitsNet", "digits", "model.factory: found .*, allowed: package.module:function"),
        ('format = "e4m3"', 'format = "e3m4"', 'codec.up.format: found \'e3m4\', allowed: "e4m3", "e5m2"'),
        ('id = "fp8"', 'id = "fp9"', 'codec.up.id: found \'fp9\', allowed: "raw", "fp16", "fp8"'),
        ('[codec.up]                    # smashed data\nid = "fp8"', "[codec.up]", "codec.up: the key 'id' is missing"),
        (
            'id = "fp8"\nformat = "e4m3"',
            'id = "pq"\nsubvectors = 4\nclusters = 4\ngroups = 3',
            "codec.up: groups 3 do not divide subvectors 4",
        ),
        (
            'id = "fp8"\nformat = "e4m3"',
            'id = "intq"\nbits = 1\nrange = "symmetric"',
            "codec.up: bits 1 goes with range 'affine' only",
        ),
        ('id = "every"', 'id = "never"', "schedule.id: found 'never', allowed: \"every\""),
        (
            'id = "sequential"',
            'id = "fedavg"',
            'aggregation.id: found \'fedavg\', allowed: "sequential", "splitfed", "parallel", "epsl"',
        ),
        ("learning_rate = 0.03", "learning_rate = -1", "optimizer.client.learning_rate: found -1, .* above 0"),
        ("momentum = 0.9", "momentun = 0.9", "optimizer.client: .*'momentun', .*did you mean 'momentum'"),
        ("momentum = 0.9", "nesterov = true", "optimizer.client.nesterov: found true with momentum 0"),
        ("mean = [0.306]", "mean = [0.1, 0.2]", "data.mean: found 2 numbers, allowed: 1, or 1 for 1 channels"),
        ("std = [0.376]", "std = [0]", "data.std: found 0"),
        ("port = 1883", "port = 70000", "broker.port: found 70000, allowed: .*at most 65535"),
        ("[broker]", "[broker", "is not TOML"),
        ("std = [0.376]", "std = [inf]", "data.std: found .*, allowed: finite numbers"),
        ("learning_rate = 0.03", "learning_rate = inf", "optimizer.client: found an infinite number"),
        ('host = "127.0.0.1"', 'host = ""', "broker.host: found ''"),
        ("weights = 1", "weights = -1", "seeds.weights: found -1"),
    ],
)
def test_a_mistake_is_named_with_what_was_found_and_what_is_allowed(tmp_path, old, new, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, (old, new))


def test_augmentation_of_what_is_no_image_is_refused(tmp_path):
    with pytest.raises(UserError, match="for images only"):
        read(
            tmp_path,
            ("input_shape = [1, 8, 8]", "input_shape = [64]"),
            ("mean = [0.306]", "augmentation = {flip = true}\nmean = [0.3]"),
        )


def test_a_file_that_is_not_there_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_trial(tmp_path / "none.toml")


@pytest.mark.parametrize("page", ["methods.md", "codecs.md"])
def test_what_the_documents_show_of_a_trial_file_can_be_read(page):
    """Each excerpt, put in the place of what the demo's trial file says there."""
    excerpts = re.findall(r"```toml\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert excerpts
    for excerpt in excerpts:
        whole = msgspec.toml.decode(TEXT)
        for key, value in msgspec.toml.decode(excerpt).items():
            adds = isinstance(value, dict) and "id" not in value
            whole[key] = {**whole.get(key, {}), **value} if adds else value
        toml.convert(whole, Trial, excerpt)


def test_every_row_of_the_papers_tables_is_a_trial_file():
    rows = sorted((DOCS.parent / "benchmarks" / "reproduce" / "trials").glob("*/*.toml"))
    assert len(rows) > 50
    assert len({read_trial(row).name for row in rows}) == len(rows)
