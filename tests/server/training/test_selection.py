import msgspec
import pytest

from cutlayer_core.record.events import Step
from cutlayer_core.schedules import Every, Forward, LossGated, Mode, Replay
from cutlayer_server.training.selection import History, Selection
from harness import digits_trial

NAMES = ("a", "b", "c", "d")


def plan(digits, schedule, history=None, shares_weights=True, **changes):
    trial = digits_trial(digits, devices=NAMES, schedule=schedule, **changes)
    return Selection(trial, shares_weights=shares_weights, history=history or History())


def steps(**losses):
    return [
        Step(
            time_s=0, epoch=0, step=0, device=device, samples=10, loss=loss, correct=0, up_payload_bytes=0,
            down_payload_bytes=0, raw_payload_bytes=0,
        )
        for device, loss in losses.items()
    ]  # fmt: skip


def test_who_is_not_here_does_not_take_part(digits):
    found = plan(digits, Every())
    found.start(0, NAMES, {"a", "c"})
    assert found.devices({"a", "c"}) == ("a", "c")
    assert found.devices({"c"}) == ("c",), "one was lost on the way"
    assert found.missing({"c"}, {"c"}) == ("a", "b", "d")


def test_in_silence_all_take_part_of_whom_something_is_kept_here_or_not(digits):
    found = plan(digits, Replay(2), History(kept={"a": 0, "b": 0}))
    found.start(1, NAMES, {"b", "c"})
    assert [found.mode(name) for name in NAMES] == [Mode.SILENT, Mode.SILENT, Mode.FORWARD, Mode.FORWARD]
    assert found.devices({"b", "c"}) == ("a", "b", "c")


def test_as_many_as_are_wanted_are_drawn_anew_each_epoch(digits):
    found = plan(digits, Forward(), clients_per_round=2)
    drawn = []
    for epoch in range(20):
        found.start(epoch, NAMES, NAMES)
        drawn.append(found.devices(NAMES))
        assert found.missing(drawn[-1], NAMES) == ()
    assert {len(each) for each in drawn} == {2}
    assert {name for each in drawn for name in each} == set(NAMES)
    again = plan(digits, Forward(), clients_per_round=2)
    again.start(3, NAMES, NAMES)
    assert again.devices(NAMES) == drawn[3]


def test_the_mean_loss_is_over_samples_and_each_client_has_its_own(digits):
    found = plan(digits, Every())
    found.start(0, NAMES, NAMES)
    more = [msgspec.structs.replace(steps(a=4.0)[0], samples=30)]
    assert found.end(steps(a=1.0, b=2.0) + more, {"a", "b"}) == pytest.approx((10 + 20 + 120) / 50)
    assert found.history.client_losses == {"a": [pytest.approx(3.25)], "b": [2.0]}


def test_clients_that_follow_their_own_losses_part(digits):
    history = History([1.0, 1.0], {"a": [2.0, 2.0], "b": [2.0, 1.0]}, {"a": 1})
    found = plan(digits, LossGated(0.5, per="client"), history, shares_weights=False)
    found.start(2, ("a", "b"), ("a", "b"))
    assert found.mode("a") is Mode.FORWARD
    assert found.mode("b") is Mode.EXCHANGE
    assert found.modes(["a", "b"]) == ("mixed", {"a": "forward", "b": "exchange"})


@pytest.mark.parametrize(("shares_weights", "left"), [(True, {}), (False, {"b": 0})])
def test_smashed_data_of_weights_that_are_no_more_are_not_trained_on(digits, shares_weights, left):
    history = History([1.0], {"a": [1.0], "b": [2.0]}, {"a": 0, "b": 0})
    found = plan(digits, Every(), history, shares_weights)
    found.start(1, NAMES, {"a"})
    found.end(steps(a=1.0), {"a"})
    assert found.history.kept == left
