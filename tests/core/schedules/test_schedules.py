from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer_core.schedules import Every, Forward, LossGated, Mode, Replay, Schedule

LETTERS = {Mode.EXCHANGE: "A", Mode.FORWARD: "B", Mode.SILENT: "C"}
ALL = [Every(), Forward(), LossGated(0.1), LossGated(0.1, 2, "client"), Replay(3)]
histories = st.lists(st.floats(0, 5), max_size=30)


def trace(schedule, losses):
    """The mode of each epoch, up to the one after the last loss."""
    return "".join(LETTERS[schedule.decide(epoch, losses[:epoch])] for epoch in range(len(losses) + 1))


def test_every_schedule_of_the_table_is_tested_here():
    assert {type(schedule) for schedule in ALL} == set(get_args(Schedule))


@pytest.mark.parametrize(
    ("losses", "modes"),
    [
        ([2.0, 1.5, 1.2, 1.15, 1.1, 1.08, 1.0, 0.99], "AAAABCABC"),
        ([0.05, 0.05, 0.05], "ABCC"),  # the first reference is 0
        ([2.0, 2.0, 2.5, 2.5, 2.5], "AABABC"),  # a rising loss counts as much
    ],
)
def test_loss_gated_follows_the_rule_of_the_paper(losses, modes):
    assert trace(LossGated(0.1), losses) == modes


@given(histories)
def test_a_threshold_of_0_always_exchanges(losses):
    assert trace(LossGated(0.0), losses) == trace(Every(), losses)


@given(histories, st.floats(0.01, 2))
def test_forward_always_stands_between_exchange_and_silence(losses, threshold):
    modes = trace(LossGated(threshold), losses)
    assert "AC" not in modes
    assert "BB" not in modes
    assert "CB" not in modes


@given(histories, st.floats(0.01, 2), st.integers(1, 4))
def test_silence_is_no_longer_than_it_may_be(losses, threshold, most):
    assert "C" * (most + 1) not in trace(LossGated(threshold, most), losses)


def test_replay_sends_every_few_epochs():
    assert trace(Replay(3), [1.0] * 6) == "BCCBCCB"


@given(histories)
def test_a_period_of_1_always_forwards(losses):
    assert trace(Replay(1), losses) == trace(Forward(), losses)


@pytest.mark.parametrize("schedule", ALL, ids=str)
@given(losses=histories)
def test_what_a_schedule_says_of_itself_is_what_it_decides(schedule, losses):
    modes = trace(schedule, losses)
    assert schedule.exchanges or "A" not in modes
    assert schedule.silences or "C" not in modes
