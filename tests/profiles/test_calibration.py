"""A board's own coefficients, by the formula and with real loads."""

import time

import numpy as np
import psutil
import pytest

from cutlayer_core.errors import UserError
from cutlayer_profiles.calibration import Stretch, _busy, calibrate, fit, plan_of
from cutlayer_profiles.coefficients import Activity, board_named
from cutlayer_profiles.meters import Root
from cutlayer_profiles.own_board import calibrate_board, toml_of
from cutlayer_profiles.profiler import Profiler
from profiles.boards import Known, board


def stretches(noise=0.0, sends=True):
    random = np.random.default_rng(3)
    found = []
    for busy, megabytes in ((0.1, 0), (1.0, 0), (2.0, 0), (3.0, 0), (4.0, 0), (0.4, 90 if sends else 0), (0.1, 0)):
        joules = 60 * 2.6 + 60 * busy * 0.9 + megabytes * 0.2
        activity = Activity(60.0, 60 * busy, megabytes * 1e6, 0)
        found.append(Stretch(activity, joules * (1 + noise * random.standard_normal())))
    return found


def test_known_coefficients_are_found_again():
    found = fit(stretches(), board_named("pi4"), "mine", "here")
    values = (found.idle_w.value, found.core_w.value, found.sent_j_mb.value)
    assert values == pytest.approx((2.6, 0.9, 0.2))
    assert found.received_j_mb == board_named("pi4").received_j_mb, "what was not measured stays as it was"
    assert found.kind == "estimated_calibrated"


def test_bounds_hold_what_is_true_with_noise():
    found = fit(stretches(noise=0.01), board_named("pi4"), "mine", "here")
    assert found.idle_w.low < 2.6 < found.idle_w.high
    assert found.core_w.low < 0.9 < found.core_w.high
    assert found.core_w.high - found.core_w.low < 0.2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (stretches()[:3], "3 stretches of this activity decide nothing"),
        ([stretches()[0]] * 7, "7 stretches of this activity decide nothing"),
        (
            [Stretch(each.activity, 500 - each.energy_j) for each in stretches(sends=False)],
            "was something else running",
        ),
    ],
)
def test_what_decides_nothing_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        fit(given, board_named("pi4"), "mine", "here")


def test_what_is_written_can_be_used_as_a_board(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(toml_of(fit(stretches(), board_named("pi4"), 'My "Pi"', "here")))
    assert board_named(str(path)) == fit(stretches(), board_named("pi4"), 'My "Pi"', "here")


def test_loads_are_real_and_each_is_reported():
    profiler, shown = Profiler(Root(), Known(lambda at: 3.0, period_s=0.05)), []
    sent = []
    found = calibrate(
        plan_of(1, sends=True), 0.5, profiler.report, lambda: (sent.append(1), time.sleep(0.01)), shown.append
    )
    profiler.close()
    assert [text.split("  ")[0].strip() for text in shown] == ["idle", "1 busy", "sending", "idle again"]
    assert all(each.energy_j == pytest.approx(3 * each.activity.seconds, rel=0.1) for each in found)
    assert sent


def test_busy_cores_are_busy_and_end():
    with _busy(2):
        workers = psutil.Process().children(recursive=True)
        before = sum(sum(worker.cpu_times()[:2]) for worker in workers)
        time.sleep(0.5)
        assert sum(sum(worker.cpu_times()[:2]) for worker in workers) > before + 0.1
    assert not any(worker.is_running() and "spawn_main" in " ".join(worker.cmdline()) for worker in workers)


def test_a_board_without_a_meter_cannot_be_calibrated(tmp_path):
    root = board(tmp_path / "pi", {"proc/device-tree/model": "Raspberry Pi 4 Model B"})
    with pytest.raises(UserError, match="profile calibrate: needs a meter, and there is none"):
        calibrate_board(tmp_path / "out.toml", 1.0, "", None, root)
    assert not (tmp_path / "out.toml").exists()
