"""What a board finds on its disk after a crash."""

import numpy as np
import pytest

from cutlayer.errors import RemoteProtocolError, UserError
from cutlayer.messages import Position
from cutlayer_device.engines import EngineState
from cutlayer_device.states import States


def state(value):
    return EngineState({"params.w": np.full(3, value, np.float32), "state.m": np.arange(2)}, steps=int(value))


@pytest.fixture
def states(tmp_path):
    found = States(tmp_path / "board", "abc")
    found.enter(7, None)
    return found


def again(states, fingerprint="abc"):
    return States(states._folder, fingerprint)


def test_the_newest_three_are_there_after_a_restart_to_the_last_bit(states):
    for step in range(5):
        states.keep(Position(0, step), state(step / 3))
    found = again(states)
    assert found.run == 7
    assert found.held == (Position(0, 2), Position(0, 3), Position(0, 4))
    read = found.read(Position(0, 2), like=state(0))
    np.testing.assert_array_equal(read.arrays["params.w"], state(2 / 3).arrays["params.w"])
    assert read.steps == 0
    assert len(list(states._folder.iterdir())) == 3


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


def test_states_of_another_bundle_or_damaged_ones_are_refused_by_name(states):
    states.keep(Position(0, 1), state(1))
    with pytest.raises(UserError, match="is of another bundle; give another --state"):
        again(states, "def")
    (path,) = states._folder.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=rf"state {path}: cannot be read; remove it"):
        again(states)


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
    assert len(list(states._folder.iterdir())) == 1
