"""A meter of known power through the real sampling thread, and the account that a device gives of itself."""

import math
import time

import msgspec
import numpy as np
import pytest

from cutlayer_core.errors import UserError
from cutlayer_core.record.energy import Energy
from cutlayer_core.record.usage import Slot, Usage, Wifi
from cutlayer_profiles.choice import choose_profiler
from cutlayer_profiles.coefficients import Activity, board_named, board_of, boards, estimate
from cutlayer_profiles.curve import Curve, Samples
from cutlayer_profiles.meters import Accuracy, Root, Settings
from cutlayer_profiles.profiler import Profiler
from cutlayer_profiles.sampler import Sampler
from cutlayer_profiles.windows import IDLE, Intervals, energy_by_phase, energy_of, trace_of
from profiles.boards import INA219, Known, board, pi5


@pytest.mark.alone
def test_known_power_through_the_real_thread_is_known_energy():
    began = time.monotonic()
    profiler = Profiler(Root(), Known(lambda at: 4.0 + 2.0 * (at - began)))
    started = time.monotonic()
    time.sleep(0.6)
    middle = time.monotonic()
    profiler.mark("forward", started + 0.05, middle - 0.05)
    time.sleep(0.6)
    usage = profiler.report()
    ended = time.monotonic()
    profiler.close()
    assert usage.seconds == pytest.approx(ended - started, abs=0.2)
    whole = 4 * (ended - started) + (ended - began) ** 2 - (started - began) ** 2
    assert usage.energy.energy_j == pytest.approx(whole, rel=0.1)
    assert usage.energy.low_j < usage.energy.energy_j < usage.energy.high_j
    assert set(usage.phases) == {"forward", IDLE}
    parts = usage.phases["forward"] + usage.phases[IDLE]
    assert parts.energy_j == pytest.approx(usage.energy.energy_j, rel=0.08)
    span, centre = middle - started - 0.1, (middle + started) / 2
    assert usage.phases["forward"].energy_j == pytest.approx(span * (4 + 2 * (centre - began)), rel=0.1)
    assert usage.samples > 25
    assert 0 < usage.pss_peak_bytes <= usage.rss_peak_bytes
    assert 0 < usage.meter_cpu_s < 0.3


class Speaking(Known):
    """Speaks by itself, three times a second; whoever reads it hears what it said last."""

    told_at_s = None

    def read(self):
        self.told_at_s = math.floor(time.monotonic() * 3) / 3
        return self._power(self.told_at_s)


def test_what_a_meter_said_by_itself_is_of_when_it_was_said():
    began = time.monotonic()
    sampler = Sampler(Speaking(lambda at: 100.0 * (at - began), counts=True))
    sampler.start()
    time.sleep(1.2)
    samples, problems, _ = sampler.take()
    sampler.stop()
    assert problems == {}
    assert 3 <= len(samples.at_s) <= 6, "a message counts once"
    assert samples.values == pytest.approx(100.0 * (samples.at_s - began))


@pytest.mark.alone
@pytest.mark.parametrize("counts", [False, True])
def test_reports_follow_each_other_without_a_hole(counts):
    began = time.monotonic()
    meter = Known(lambda at: 100.0 * (at - began) if counts else 100.0, counts=counts)
    meter.accuracy = Accuracy(gain=0.0, window_s=0.05)  # what a reading is the mean over
    profiler = Profiler(Root(), meter)
    usages = []
    for _ in range(4):
        time.sleep(0.3)
        usages.append(profiler.report())
    elapsed = time.monotonic() - began
    profiler.close()
    assert sum(usage.energy.energy_j for usage in usages) == pytest.approx(100 * elapsed, rel=0.08)


def test_a_meter_that_fails_now_and_then_leaves_flags_not_numbers():
    reads = iter(range(1000))

    def power(at):
        if next(reads) % 3 == 0:
            raise OSError("the bus was busy")
        return 1.0

    profiler = Profiler(Root(), Known(power, period_s=0.02))
    time.sleep(0.4)
    usage = profiler.report()
    profiler.close()
    assert usage.energy.energy_j == pytest.approx(usage.seconds, rel=0.1)
    assert any("times: the bus was busy" in flag for flag in usage.flags)


def test_problems_that_differ_in_numbers_only_are_one_and_an_account_stays_within_its_bounds():
    watts = iter(range(10**6))

    def power(at):
        if next(watts) % 2:
            raise ValueError(f"{next(watts) / 7:.3f} mV at the shunt: {'x' * 500}")
        return 1.0

    profiler = Profiler(Root(), Known(power, period_s=0.001))
    time.sleep(0.3)
    usage = profiler.report()
    profiler.close()
    assert len(usage.flags) <= 3
    assert any("times: # mV at the shunt" in flag for flag in usage.flags)
    assert usage.problem() == ""


def test_a_meter_that_always_fails_gives_no_energy():
    def power(at):
        raise OSError("no such device")

    profiler = Profiler(Root(), Known(power))
    time.sleep(0.05)
    usage = profiler.report()
    profiler.close()
    assert usage.energy is None
    assert any("a power curve needs two finite samples" in flag for flag in usage.flags)


def test_a_reading_that_takes_half_a_period_is_left_out():
    now = iter([0.0, 0.0, 0.06, 0.1, 0.1, 0.2, 0.202, 0.3, 0.302])
    sampler = Sampler(Known(lambda at: 1.0, period_s=0.1), clock=lambda: next(now), wait=lambda seconds: True)
    sampler._run()
    sampler._sample()
    samples, problems, _ = sampler.take()
    assert list(samples.at_s) == pytest.approx([0.201, 0.301])
    assert problems == {"known took more than half a period": 1}


def test_a_meter_that_was_silent_tells_nothing_of_the_whole():
    at = np.concatenate([np.arange(0, 1, 0.1), np.arange(99, 100, 0.1)])
    with pytest.raises(UserError, match="the meter was silent for more than 2% of the time"):
        energy_of(Curve(Samples(at, np.full_like(at, 2.0)), 0.1), 0.0, 99.9, Known(lambda at: 2.0))


def test_phases_shorter_than_the_period_are_told_by_the_readings_that_fell_into_them():
    """30 ms at 8 W and 32 ms at 2 W in turn, read every 100 ms: a line between readings would give both 5 W."""
    begins = np.arange(0, 60, 0.062)
    at = np.arange(0, 60, 0.0973)
    watts = np.where((at % 0.062) < 0.03, 8.0, 2.0)
    marks = {"forward": Intervals(begins, begins + 0.03), "wait": Intervals(begins + 0.03, begins + 0.062)}
    meter = Known(lambda at: 1.0, period_s=0.1)
    found = energy_by_phase(Curve(Samples(at, watts), 0.1), marks, 0.0, 59.9, meter)
    for phase, power_w in (("forward", 8.0), ("wait", 2.0)):
        assert found[phase].energy_j == pytest.approx(power_w * marks[phase].seconds, rel=0.05)
    slow = Known(lambda at: 1.0, period_s=1.0)
    assert energy_by_phase(Curve(Samples(at, watts), 0.1), marks, 0.0, 59.9, slow) == {}, (
        "a plug tells nothing of phases"
    )
    slow = Known(lambda at: 1.0, period_s=0.1)
    slow.accuracy = Accuracy(gain=0.01, window_s=0.035)
    assert energy_by_phase(Curve(Samples(at, watts), 0.1), marks, 0.0, 59.9, slow) == {}, (
        "each reading is of both phases"
    )


def test_a_phase_with_few_readings_has_no_energy():
    at = np.arange(0, 10, 0.1)
    marks = {"short": Intervals.of([(1.0, 1.5)]), "long": Intervals.of([(4.5, 8.0)])}
    found = energy_by_phase(Curve(Samples(at, np.ones_like(at)), 0.1), marks, 0.0, 9.9, Known(lambda at: 1.0))
    assert set(found) == {"long", IDLE}


def test_a_trace_has_the_power_and_the_greatest_phase_of_each_stretch():
    at = np.arange(0, 10.1, 0.1)
    curve = Curve(Samples(at, np.where(at < 5, 2.0, 4.0)), 0.1)
    marks = {"forward": Intervals.of([(1.0, 2.0), (2.0, 4.0)]), "backward": Intervals.of([(4.0, 9.0)])}
    trace = trace_of(curve, marks, 0.0, 10.0)
    assert len(trace) == 60
    assert [slot.phase for slot in trace[::6]] == [IDLE, *["forward"] * 3, *["backward"] * 5, IDLE]
    assert sum(slot.power_w for slot in trace) * 10 / 60 == pytest.approx(float(curve.energy_j(0.0, 10.0)))
    assert {slot.phase for slot in trace_of(curve, {}, 0.0, 10.0)} == {IDLE}
    assert trace_of(curve, marks, 3.01, 3.02) == ()


def test_bounds_are_of_two_standard_deviations_of_gain_and_steps():
    at = np.arange(0, 10.1, 0.1)
    curve = Curve(Samples(at, np.full_like(at, 5.0)), 0.1)
    found = energy_of(curve, 0.0, 10.0, Known(lambda at: 5.0))
    half = math.hypot(0.01 * 50, 2 * 0.1 / math.sqrt(12) / math.sqrt(101) * 10)
    assert found.high_j - found.energy_j == pytest.approx(half)


def test_an_estimate_is_the_sum_of_its_coefficients_with_the_worst_bounds():
    total, active = estimate(board_named("pi4"), Activity(10, 40, 5e6, 5e6))
    assert active.energy_j == pytest.approx(40 * 0.93 + 5 * 0.15 + 5 * 0.13)
    assert total.energy_j == pytest.approx(27 + 38.6)
    assert (active.low_j, active.high_j) == pytest.approx((40 * 0.75 + 0.5, 40 * 1.05 + 10))
    assert (total.kind, total.scope, active.scope) == ("estimated_prior", "dc_input", "dc_active")
    wider, _ = estimate(board_named("pi4"), Activity(10, 40, 5e6, 5e6), throttled=True)
    assert wider.high_j - wider.energy_j == pytest.approx(1.5 * (total.high_j - total.energy_j))


def test_every_board_has_bounds_around_its_values_and_a_source():
    found = boards()
    assert {"pi3b", "pi3bplus", "pi4", "pi5", "pi-zero2w"} <= found.keys()
    for each in found.values():
        for coefficient in (each.idle_w, each.core_w, each.sent_j_mb, each.received_j_mb):
            assert coefficient.low <= coefficient.value <= coefficient.high
            assert coefficient.source


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Raspberry Pi 4 Model B Rev 1.5\0", "Raspberry Pi 4 Model B"),
        ("Raspberry Pi 3 Model B Rev 1.2\0", "Raspberry Pi 3 Model B"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3\0", "Raspberry Pi 3 Model B Plus"),
        ("Raspberry Pi 5 Model B Rev 1.0\0", "Raspberry Pi 5"),
        ("Raspberry Pi Zero 2 W Rev 1.0\0", "Raspberry Pi Zero 2 W"),
    ],
)
def test_a_board_is_known_by_its_model(tmp_path, model, name):
    assert board_of(board(tmp_path, {"proc/device-tree/model": model})).name == name


def test_other_boards_have_no_coefficients(tmp_path):
    assert board_of(board(tmp_path, {"proc/device-tree/model": "NVIDIA Jetson Orin Nano"})) is None
    assert board_of(Root(tmp_path / "nothing")) is None
    with pytest.raises(UserError, match="board: found 'pi6', allowed: pi-zero2w, pi3b"):
        board_named("pi6")


def test_the_best_meter_is_chosen_and_a_requirement_is_kept_or_refused(tmp_path):
    pi4 = {"proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.5"}
    plain, metered = board(tmp_path / "plain", pi4), board(tmp_path / "metered", {**pi4, **INA219})
    for root, settings, energy, source in (
        (plain, Settings(), "auto", "≈ coefficients of Raspberry Pi 4 Model B"),
        (plain, Settings(), "require=estimated_prior", "≈ coefficients"),
        (plain, Settings(), "none", "no energy, as asked"),
        (metered, Settings(), "require=estimated_prior", "≈ coefficients"),
        (metered, Settings(shunt_ohm=0.1), "auto", "ina219 (simulated, dc_input)"),
        (metered, Settings(), "auto", "no energy: ina219: 5.10 V, 0.620 A, with a shunt of 0.1 ohm that nobody"),
        (metered, Settings(board="pi5"), "auto", "≈ coefficients of Raspberry Pi 5"),
        (pi5(tmp_path / "pi5"), Settings(), "auto", "Raspberry Pi 5 PMIC (simulated, pmic_rails)"),
    ):
        profiler, found = choose_profiler(root, settings, energy)
        profiler.close()
        assert found.startswith(source)
    for root, energy in ((plain, "require=measured"), (metered, "require=measured")):
        with pytest.raises(
            UserError, match=r"--energy: require=measured cannot be had here: .*`cutlayer doctor` says more"
        ):
            choose_profiler(root, Settings(), energy)
    with pytest.raises(UserError, match="--energy: found 'joules', allowed: auto, none, require=measured"):
        choose_profiler(plain, Settings(), "joules")


def test_an_estimate_of_a_copy_is_simulated(tmp_path):
    root = board(tmp_path, {"proc/device-tree/model": "Raspberry Pi 4 Model B", "proc/stat": "cpu 1 2 3 4 5 6 7 8\n"})
    profiler, _ = choose_profiler(root, Settings(), "auto")
    assert profiler.report().energy.kind == "simulated"
    profiler.close()


def test_what_this_process_does_is_counted():
    profiler = Profiler(Root())
    began = time.process_time()
    while time.process_time() - began < 0.1:
        pass
    usage = profiler.report()
    profiler.close()
    assert 0.1 <= usage.cpu_s < 1.0
    assert usage.busy_core_s >= 0.05
    assert usage.rss_peak_bytes > 1e6
    assert (usage.energy, usage.phases, usage.throttled) == (None, {}, ())


def test_an_account_that_cannot_be_is_refused():
    good = Usage(seconds=1.0, cpu_s=1.0, wifi=Wifi(signal_dbm=-60.0))
    assert good.problem() == ""
    energy = Energy(energy_j=math.nan, low_j=0, high_j=1, kind="measured", scope="dc_input")
    for changes, message in (
        ({"cpu_s": math.inf}, "usage.cpu_s is inf"),
        ({"energy": energy}, "usage.energy is outside of its bounds"),
        ({"seconds": -5.0}, "usage.seconds is -5.0"),
        ({"sent_bytes": -4}, "usage.sent_bytes is -4"),
        ({"flags": ("x" * 500,)}, "usage.flags[0] has 500 letters"),
        ({"trace": (Slot(power_w=1.0, phase="x"),) * 100}, "usage.trace has 100 parts"),
    ):
        assert msgspec.structs.replace(good, **changes).problem() == message
        refused = msgspec.structs.replace(good, **changes).trusted()
        assert refused.flags == (f"its account was refused: {message}",)
        assert refused.problem() == ""
    assert good.trusted() is good
