"""What a whole trial's devices spent is accounted for, with what came after their last passes and what they draw anyway."""

import time

import msgspec
import pytest

from cutlayer_core.record.events import ClientPass, EpochDone, Settled, Started
from cutlayer_core.schedules import LossGated
from cutlayer_core.wire.transports import MemoryBroker
from cutlayer_profiles.accounts import accounts_of, baselines_of, began_s
from cutlayer_profiles.costs import costs_of, doubts_of
from cutlayer_profiles.meters import Root
from cutlayer_profiles.profiler import Profiler
from harness import digits_trial, run_trial
from profiles.boards import Known

IDLE_S = 0.6


def profilers(names, power):
    meters = {name: Known(power, period_s=0.2) for name in names}
    for name, meter in meters.items():
        meter.name = name  # of its own each
    return {name: Profiler(Root(), meter) for name, meter in meters.items()}


@pytest.fixture(scope="module")
def metered(digits, tmp_path_factory):
    """Boards of 4 W that rest before and after, and whose last epochs are silent."""
    schedule = LossGated(threshold=10.0)
    trial = digits_trial(digits, epochs=4, idle_s=IDLE_S, schedule=schedule)
    run_dir = tmp_path_factory.mktemp("run") / "r"
    return run_trial(digits, trial, run_dir, profilers=profilers(trial.devices, lambda at: 4.0))[0]


@pytest.mark.alone
def test_what_comes_after_the_last_pass_is_accounted_for(metered):
    assert metered.all(EpochDone)[-1].mode == "silent"
    last = max(each.time_s for each in metered.all(ClientPass))
    settled = [each for each in metered.all(Settled) if each.time_s > last]
    assert {each.device for each in settled} == set(metered.all(Started)[0].devices)
    assert doubts_of(metered) == []
    whole = sum(costs_of(metered)[1:], costs_of(metered)[0])
    seconds = metered.all(EpochDone)[-1].time_s - began_s(metered)
    joules = whole.energy["energy_measured_dc_input_j"].energy_j
    assert joules == pytest.approx(4.0 * len(settled) * seconds, rel=0.1)
    assert {each.epoch for each in accounts_of(metered) if not each.passed} == {0, 3}


def test_rests_tell_what_a_device_draws_anyway(metered):
    for rest in baselines_of(metered):
        assert rest.watts == (pytest.approx(4.0), pytest.approx(4.0))
        assert rest.before.seconds == pytest.approx(IDLE_S, abs=0.4)
        assert not rest.drifted
    whole = sum(costs_of(metered)[1:], costs_of(metered)[0])
    assert whole.energy["energy_measured_dc_active_j"].energy_j == pytest.approx(0.0, abs=4.0)
    assert metered.all(EpochDone)[0].duration_s < metered.all(EpochDone)[0].time_s - began_s(metered) + 0.01
    assert began_s(metered) > metered.all(Started)[0].time_s + IDLE_S


def test_a_rest_that_drifts_is_doubted(digits, tmp_path):
    began = time.monotonic()
    trial = digits_trial(digits, epochs=1, idle_s=0.3)
    run, _ = run_trial(digits, trial, tmp_path / "r", profilers=profilers(trial.devices, lambda at: 4.0 + at - began))
    assert all(rest.drifted for rest in baselines_of(run))
    assert all(rest.watts[0] < rest.watts[1] for rest in baselines_of(run))
    assert any("something else than the training changed" in doubt for doubt in doubts_of(run))


def test_without_a_rest_there_is_still_an_account_at_the_end(digits, tmp_path):
    trial = digits_trial(digits, epochs=1)
    run, _ = run_trial(digits, trial, tmp_path / "r", profilers=profilers(trial.devices, lambda at: 4.0))
    assert [each.device for each in run.all(Settled)] == list(trial.devices)
    assert all(each.idle is None and each.usage.energy for each in run.all(Settled))
    assert baselines_of(run) == []
    assert "energy_measured_dc_active_j" not in costs_of(run)[0].energy


def test_a_device_that_dies_while_it_settles_spoils_nothing(digits, tmp_path):
    """Its answer never comes, and the training was over."""

    def lose(packet):
        return [] if b"settled" in packet.payload else [packet]

    trial = digits_trial(digits, epochs=1, patience_s=1.0)
    run, boards = run_trial(digits, trial, tmp_path / "r", MemoryBroker(lose))
    assert run.summary.ok
    assert run.all(Settled) == []
    assert [board.outcome for board in boards] == [run.summary.reason] * len(boards)


def test_an_account_that_cannot_be_is_refused_alone():
    from cutlayer_core.record.usage import Usage

    wrong = Usage(seconds=1.0, cpu_s=-1.0)
    assert msgspec.structs.asdict(wrong.trusted())["flags"]
