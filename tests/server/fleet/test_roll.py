"""The roll of devices: names and births, without a network."""

import pytest

from cutlayer_core.wire.messages import Presence
from cutlayer_server.fleet.roll import Roll


def birth(name, epoch=1):
    return Presence(trial="t", device=name, online=True, epoch=epoch, samples=3)


@pytest.fixture
def roll():
    """Three may take part, two are needed, and all have come."""
    found = Roll(["a", "b", "c"], 2)
    for name in "abc":
        found.admit(birth(name))
    return found


def test_whoever_is_admitted_stands_in_the_trials_order(roll):
    roll.release("a")
    roll.release("b")
    roll.admit(birth("b", 2))
    roll.admit(birth("a", 2))
    assert roll.devices == ["a", "b", "c"]


def test_a_device_can_be_spared_while_more_than_the_least_take_part(roll):
    assert roll.can_spare("a")
    roll.release("a")
    assert not roll.can_spare("b")
    assert not roll.can_spare("a"), "it does not take part any longer"
    assert roll.missing == ("a",)


def test_a_released_device_is_known_no_more_and_its_birth_is_handed_out(roll):
    assert roll.release("b").epoch == 1
    assert roll.admitted("b") is None
    assert roll.known == ["a", "c"]


def test_going_and_coming_is_news_once(roll):
    assert [roll.move("a", online=online) for online in (True, False, False, True)] == [False, True, False, True]


def test_one_that_is_offline_still_takes_part(roll):
    roll.move("a", online=False)
    assert roll.online == ["b", "c"]
    assert roll.devices == ["a", "b", "c"]
    assert roll.is_enough
    roll.move("b", online=False)
    assert not roll.is_enough


def test_the_training_begins_without_those_who_are_struck_off(roll):
    roll.strike_off(["c"])
    assert (roll.devices, roll.missing, roll.admitted("c")) == (["a", "b"], ("c",), None)


def test_one_that_is_about_to_join_is_known_beside_the_process_that_it_replaces(roll):
    roll.release("c")
    roll.joining["c"] = birth("c", 2)
    assert roll.known == ["a", "b", "c"]
    assert "c" not in roll.devices
