"""What a board finds on its disk after a crash."""

from contextlib import closing

import numpy as np
import pytest

from cutlayer_core.errors import RemoteProtocolError, UserError
from cutlayer_core.wire.messages import Position
from cutlayer_device.engines import EngineState
from cutlayer_device.training.states import States


def state(value):
    return EngineState({"params.w": np.full(3, value, np.float32), "state.m": np.arange(2)}, steps=int(value))


@pytest.fixture
def states(tmp_path):
    found = States(tmp_path / "board", "abc")
    found.enter(7, None)
    yield found
    found.close()


def again(states, fingerprint="abc"):
    """What the next process finds."""
    states.close()
    with closing(States(states._folder, fingerprint)) as found:
        return found


def files(states):
    return [path for path in states._folder.iterdir() if path.suffix == ".safetensors"]


def test_a_folder_has_one_process(states):
    with pytest.raises(UserError, match="another process uses it: each device needs a name of its own"):
        States(states._folder, "abc")


def test_the_newest_three_are_there_after_a_restart_to_the_last_bit(states):
    for step in range(5):
        states.keep(Position(0, step), state(step / 3))
    found = again(states)
    assert found.run == 7
    assert found.held == (Position(0, 2), Position(0, 3), Position(0, 4))
    read = found.read(Position(0, 2), like=state(0))
    np.testing.assert_array_equal(read.arrays["params.w"], state(2 / 3).arrays["params.w"])
    assert read.steps == 0
    assert len(files(states)) == 3


def test_the_codecs_memory_is_kept_whatever_its_strides(states):
    """safetensors writes an array's memory as it lies."""
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    states.keep(Position(0, 1), state(1)._replace(memory={"centroids": turned}))
    found = states.read(Position(0, 1), state(1))
    np.testing.assert_array_equal(found.memory["centroids"], turned)
    assert found.arrays.keys() == state(1).arrays.keys()


def test_going_back_removes_what_comes_after(states):
    states.keep(Position(0, 1), state(1))
    states.keep(Position(0, 2), state(2))
    states.enter(7, Position(0, 1))
    assert again(states).held == (Position(0, 1),)


def test_another_run_begins_with_nothing(states):
    states.keep(Position(0, 1), state(1))
    states.enter(8, None)
    assert again(states).held == ()


@pytest.mark.parametrize(("run", "position"), [(7, Position(0, 9)), (8, Position(0, 1))])
def test_a_state_that_is_not_held_is_refused_and_nothing_is_removed(states, run, position):
    states.keep(Position(0, 1), state(1))
    with pytest.raises(RemoteProtocolError, match="does not hold"):
        states.enter(run, position)
    assert again(states).held == (Position(0, 1),)


def test_a_damaged_state_is_not_held_and_half_written_ones_are_removed(states):
    states.keep(Position(0, 1), state(1))
    states.keep(Position(0, 2), state(2))
    damaged = bytearray(states._files[Position(0, 2)].read_bytes())
    damaged[-1] ^= 1
    states._files[Position(0, 2)].write_bytes(damaged)
    (states._folder / "x.safetensors.part").write_bytes(b"half")
    assert again(states).held == (Position(0, 1),)
    assert len(files(states)) == 1


def test_the_end_of_a_run_leaves_no_states(states):
    states.keep(Position(0, 1), state(1))
    states.clear()
    assert (again(states).run, again(states).held) == (0, ())


def test_the_number_of_the_participation_before_is_known_after_a_reboot(states):
    assert states.number(5) == 0
    assert again(states).number(6) == 5


def test_states_of_another_bundle_are_refused_by_name(states):
    states.keep(Position(0, 1), state(1))
    with pytest.raises(UserError, match="is of another bundle; give another --state"):
        again(states, "def")


def test_a_state_of_other_shapes_is_refused(states):
    states.keep(Position(0, 1), state(1))
    other = EngineState({"params.w": np.zeros(4, np.float32), "state.m": np.arange(2)}, 0)
    with pytest.raises(UserError, match="is not this bundle's"):
        states.read(Position(0, 1), like=other)


def test_a_full_disk_leaves_the_states_before(states, monkeypatch):
    states.keep(Position(0, 1), state(1))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            states.keep(Position(0, 2), state(2))
    assert again(states).held == states.held == (Position(0, 1),)
    assert len(files(states)) == 1
