from itertools import chain

import numpy as np
import pytest
from PIL import Image

from cutlayer_core.errors import UserError
from cutlayer_core.samples import data
from cutlayer_core.trial.recipe import InputSpec
from cutlayer_core.wire.messages import Augmentation

PREPARE = data.Preparation(InputSpec(shape=(1, 4, 4)), (0.5,), (0.25,))
PLAIN = Augmentation()
CLASSES = ("cat", "dog")


@pytest.fixture
def samples():
    x = np.arange(10 * 16, dtype=np.uint8).reshape(10, 1, 4, 4)
    return data.Samples(x, np.arange(10, dtype=np.uint16))


def labels(samples, size=3, seed=(1, 0, 0), augmentation=PLAIN):
    return [batch.y.tolist() for batch in data.batches(samples, PREPARE, size, seed, augmentation)]


def test_every_sample_comes_once_and_the_last_batch_may_be_smaller(samples):
    found = labels(samples)
    assert [len(each) for each in found] == [3, 3, 3, 1]
    assert sorted(chain.from_iterable(found)) == list(range(10))


def test_the_order_is_decided_by_the_seed_alone(samples):
    assert labels(samples) == labels(samples)
    others = [(2, 0, 0), (1, 1, 0), (1, 0, 1)]
    assert all(labels(samples, seed=seed) != labels(samples) for seed in others)


def test_the_order_is_the_same_on_every_machine(samples):
    assert labels(samples, size=10, seed=(1, 0, 0)) == [[8, 4, 7, 0, 1, 2, 5, 9, 6, 3]]


def test_integers_are_scaled_to_one_and_normalised(samples):
    batch = next(data.whole(samples, PREPARE, 10))
    np.testing.assert_allclose(batch.x, (samples.x / 255 - 0.5) / 0.25, rtol=1e-5, atol=1e-6)
    assert batch.x.dtype == np.float32


def test_tokens_stay_as_they_are_and_within_their_range(tmp_path):
    tokens = InputSpec(shape=(4,), dtype="int64", low=0, high=9)
    np.savez(tmp_path / "text.npz", x=np.arange(8).reshape(2, 4), y=np.zeros(2, int))
    found = data.load(tmp_path / "text.npz", tokens)
    prepared = data.Preparation(tokens, (0.5,), (0.25,))(found.x)
    np.testing.assert_array_equal(prepared, np.arange(8).reshape(2, 4))
    assert prepared.dtype == np.int64
    for x in (np.full((2, 4), 10), np.full((2, 4), -1), np.zeros((2, 4))):
        np.savez(tmp_path / "bad.npz", x=x, y=np.zeros(2, int))
        with pytest.raises(UserError, match="allowed: whole numbers from 0 to 9"):
            data.load(tmp_path / "bad.npz", tokens)


def test_channels_are_normalised_one_by_one():
    prepare = data.Preparation(InputSpec(shape=(2, 1, 1)), (0.0, 1.0), (1.0, 2.0))
    x = np.ones((1, 2, 1, 1), np.float32)
    np.testing.assert_array_equal(prepare(x).ravel(), [1.0, 0.0])


def test_flip_mirrors_whole_images_and_only_some(samples):
    (batch,) = data.batches(samples, PREPARE, 10, (1, 0, 0), Augmentation(flip=True))
    originals = PREPARE(samples.x[batch.y])
    mirrored = (batch.x == originals[..., ::-1]).all((1, 2, 3))
    same = (batch.x == originals).all((1, 2, 3))
    assert (mirrored | same).all()
    assert 0 < mirrored.sum() < 10


def test_crop_shifts_over_a_border_of_zeros(samples):
    (batch,) = data.batches(samples, PREPARE, 10, (3, 0, 0), Augmentation(crop=1))
    padded = np.pad(samples.x[batch.y], ((0, 0), (0, 0), (1, 1), (1, 1)))
    for image, source in zip(batch.x, padded, strict=True):
        windows = [PREPARE(source[:, i : i + 4, j : j + 4])[0] for i in range(3) for j in range(3)]
        assert any((image == window).all() for window in windows)


def test_an_npz_is_loaded_by_either_pair_of_names(tmp_path, samples):
    np.savez(tmp_path / "a.npz", x=samples.x, y=samples.y)
    np.savez(
        tmp_path / "b.npz",
        x_train=samples.x,
        y_train=samples.y.astype(np.int64),
        x_test=samples.x[:3],
        y_test=samples.y[:3],
    )
    for file in ("a.npz", "b.npz"):
        found = data.load(tmp_path / file, InputSpec(shape=(1, 4, 4)))
        np.testing.assert_array_equal(found.x, samples.x)
        np.testing.assert_array_equal(found.y, samples.y)
    assert len(data.load(tmp_path / "b.npz", InputSpec(shape=(1, 4, 4)), part="test").y) == 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((3, 16))}, "found arrays"),
        ({"x": np.zeros((3, 15)), "y": np.zeros(3, int)}, "does not fit the model's input"),
        ({"x": np.zeros((3, 16)), "y": np.zeros(2, int)}, "found 3 samples and 2 labels"),
        ({"x": np.zeros((0, 16)), "y": np.zeros(0, int)}, "found 0 samples"),
        ({"x": np.zeros((3, 16)), "y": np.zeros(3)}, "labels are float64"),
        ({"x": np.zeros((3, 16)), "y": np.array([0, 1, -1])}, "labels are"),
        ({"x": np.array([{}, {}]), "y": np.zeros(2, int)}, "plain arrays"),
        ({"x": np.zeros((3, 4, 4, 1)), "y": np.zeros(3, int)}, "images are channels, height, width"),
        ({"x": np.full((3, 16), 256), "y": np.zeros(3, int)}, "up to 256, allowed: 0 to 255, or floats"),
        ({"x": np.full((3, 16), "a"), "y": np.zeros(3, int)}, "allowed: numbers"),
    ],
)  # fmt: skip
def test_a_wrong_npz_is_the_users_mistake(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match=message):
        data.load(tmp_path / "bad.npz", InputSpec(shape=(1, 4, 4)))


def test_a_file_that_is_no_npz_or_not_there_is_the_users_mistake(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UserError, match="plain arrays"):
        data.load(tmp_path / "text.npz", InputSpec(shape=(1, 4, 4)))
    with pytest.raises(UserError, match="does not exist"):
        data.load(tmp_path / "none.npz", InputSpec(shape=(1, 4, 4)))


def folder_of_images(path, mode="RGB", size=(6, 4)):
    for label, name in enumerate(("cat", "dog")):
        (path / name).mkdir(parents=True)
        for number in range(2):
            Image.new(mode, size, tuple([40 * label + number] * 3)).save(path / name / f"{number}.png")
        (path / name / "notes.txt").write_text("not an image")
    return path


def test_a_folder_of_images_is_read_class_by_class(tmp_path):
    found = data.load(folder_of_images(tmp_path), InputSpec(shape=(3, 4, 6)), CLASSES)
    assert found.y.tolist() == [0, 0, 1, 1]
    assert found.x.shape == (4, 3, 4, 6)
    assert found.x[:, 0, 0, 0].tolist() == [0, 1, 40, 41]


def test_images_are_resized_and_turned_grey_as_the_model_wants(tmp_path):
    assert data.load(folder_of_images(tmp_path), InputSpec(shape=(1, 8, 8)), CLASSES).x.shape == (4, 1, 8, 8)


@pytest.mark.parametrize("shape", [(4, 8, 8), (64,)])
def test_a_model_without_image_input_does_not_take_a_folder(tmp_path, shape):
    with pytest.raises(UserError, match="1 or 3 channels"):
        data.load(folder_of_images(tmp_path), InputSpec(shape=shape))


def test_an_empty_folder_and_a_broken_image_are_the_users_mistake(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        data.load(tmp_path / "empty", InputSpec(shape=(3, 4, 6)))
    broken = folder_of_images(tmp_path / "broken")
    (broken / "cat" / "0.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(UserError, match=r"0\.png: cannot be read"):
        data.load(broken, InputSpec(shape=(3, 4, 6)), CLASSES)


def test_a_class_keeps_its_number_where_another_is_missing_and_hidden_folders_are_none(tmp_path):
    path = folder_of_images(tmp_path)
    for file in (path / "cat").iterdir():
        file.unlink()
    (path / "cat").rmdir()
    (path / ".ipynb_checkpoints").mkdir()
    assert data.load(path, InputSpec(shape=(3, 4, 6)), CLASSES).y.tolist() == [1, 1]


def test_a_class_that_the_trial_does_not_name_is_the_users_mistake(tmp_path):
    with pytest.raises(
        UserError, match=r"found the classes \['dog'\], allowed: \['cat'\]; name them in .*data.classes"
    ):
        data.load(folder_of_images(tmp_path), InputSpec(shape=(3, 4, 6)), ("cat",))


def test_whole_numbers_are_scaled_like_bytes_and_floats_are_not(tmp_path):
    y = np.zeros(1, int)
    for name, x in (("int", np.full((1, 16), 255)), ("float", np.ones((1, 16)))):
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)
    prepare = data.Preparation(InputSpec(shape=(1, 4, 4)), (0.0,), (1.0,))
    found = [prepare(data.load(tmp_path / f"{name}.npz", InputSpec(shape=(1, 4, 4))).x) for name in ("int", "float")]
    assert found[0].max() == found[1].max() == 1.0


@pytest.mark.parametrize("content", [b"PK\x03\x04 cut off", b"", b"\x93NUMPY"])
def test_a_damaged_npz_is_the_users_mistake(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"is not an \.npz of plain arrays"):
        data.load(tmp_path / "bad.npz", InputSpec(shape=(1, 4, 4)))


def test_a_single_array_is_no_npz(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 16)))
    with pytest.raises(UserError, match=r"is not an \.npz of plain arrays"):
        data.load(tmp_path / "x.npy", InputSpec(shape=(1, 4, 4)))
