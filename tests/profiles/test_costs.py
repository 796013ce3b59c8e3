"""What runs cost, what a setting saves, and the page that shows it."""

import json
import re
import subprocess
import sys

import msgspec
import pytest

from cutlayer_core.errors import UserError
from cutlayer_core.record.energy import Energy
from cutlayer_core.record.events import ClientPass, Ended, EpochDone, Settled, Started, Step
from cutlayer_core.record.record import Record, read_run
from cutlayer_core.record.usage import Usage
from cutlayer_profiles.coefficients import board_named, corners
from cutlayer_profiles.comparison.savings import compare_groups, ratio, series_of, spread
from cutlayer_profiles.costs import costs_of, doubts_of, repeats

MODES = {"every": ("exchange",) * 4, "gated": ("exchange", "exchange", "forward", "silent")}


def joules(energy_j, kind="measured"):
    return Energy(energy_j=energy_j, low_j=0.9 * energy_j, high_j=1.1 * energy_j, kind=kind, scope="dc_input")


def usage(cpu_s, energy=None, **changes):
    phases = {"forward": energy} if energy else {}
    return Usage(**{"seconds": 10.0, "cpu_s": cpu_s, "energy": energy, "phases": phases, "meter": "m", **changes})


def write_run(path, modes, scale=1.0, usages=None):
    """Four epochs of two boards of 64 samples, of which an exchange costs 3 core seconds and a forward pass 1."""
    record = Record(path, 'name = "t"\n')
    record.write(Started(time_s=0.0, devices={"a": 64, "b": 64}))
    for epoch, mode in enumerate(modes):
        for device in ("a", "b"):
            for step in range(2):
                record.write(
                    Step(
                        time_s=0.1, epoch=epoch, step=step, device=device, samples=32, loss=1.0, correct=16,
                        up_payload_bytes=1, down_payload_bytes=1, raw_payload_bytes=1,
                    )
                )  # fmt: skip
            if mode != "silent":
                spent = scale * (3.0 if mode == "exchange" else 1.0)
                own = usages(epoch, device) if usages else usage(spent, joules(10 * spent), seconds=10.0 * scale)
                record.write(
                    ClientPass(
                        time_s=10.0 * scale * (epoch + 1), epoch=epoch, device=device, steps=2, phases_s={}, usage=own
                    )
                )
        sent = 0 if mode == "silent" else 1000
        record.write(
            EpochDone(
                time_s=10.0 * scale * (epoch + 1), epoch=epoch, mode=mode, loss=1.0, accuracy=0.5, test_loss=1.0, test_accuracy=0.5 + 0.1 * epoch,
                steps=4, duration_s=10.0 * scale, up_bytes=sent, down_bytes=sent if mode == "exchange" else 0, phases_s={},
            )
        )  # fmt: skip
    for device in ("a", "b") if modes[-1] == "silent" and not usages else ():
        nothing = usage(0.0, joules(0.0), seconds=10.0 * scale)
        record.write(Settled(time_s=10.0 * scale * len(modes), device=device, usage=nothing))
    record.write(Ended(time_s=50.0, ok=True, reason="done"))
    record.close("t")
    return read_run(path)


def test_costs_are_summed_over_devices_and_epochs(tmp_path):
    costs = costs_of(write_run(tmp_path / "run", MODES["gated"]))
    assert [cost.client_cpu_s for cost in costs] == [6, 6, 2, 0]
    assert [cost.sent_bytes for cost in costs] == [1000, 1000, 1000, 0]
    assert [(cost.samples_forward, cost.samples_backward) for cost in costs] == [
        (128, 128),
        (128, 128),
        (128, 0),
        (0, 0),
    ]
    whole = sum(costs[1:], costs[0])
    assert whole.energy["energy_measured_dc_input_j"].energy_j == pytest.approx(140)
    assert whole.phases["forward"]["energy_measured_dc_input_j"].energy_j == pytest.approx(140)
    assert whole.passes_of_3 == 3 * 256 + 128


def test_joules_of_silent_epochs_are_theirs_and_not_those_of_the_report_that_comes_later(tmp_path):
    """4 W all the time, and one pass in four epochs: until the second one it is half of it all."""
    path = tmp_path / "run"
    write_run(path, ("exchange", "silent", "silent", "silent"), usages=lambda *_: usage(3.0, joules(40)))
    lines = (path / "events.jsonl").read_bytes().splitlines()
    later = usage(0.1, joules(120), seconds=30.0)
    settled = [msgspec.json.encode(Settled(time_s=40.0, device=device, usage=later)) for device in ("a", "b")]
    (path / "events.jsonl").write_bytes(b"\n".join([*lines[:-1], *settled, lines[-1], b""]))
    run = read_run(path)
    costs = costs_of(run)
    assert [cost.energy["energy_measured_dc_input_j"].energy_j for cost in costs] == pytest.approx([80, 80, 80, 80])
    assert [cost.client_cpu_s for cost in costs] == pytest.approx([6.0, 0, 0, 0.2])
    reached = series_of(run).until(0.6)
    assert reached.energy["energy_measured_dc_input_j"].energy_j == pytest.approx(160)
    assert doubts_of(run) == []


def test_a_short_report_without_a_reading_is_no_reason_to_have_no_joules(tmp_path):
    """As of a plug that speaks every ten seconds, at a settling that comes soon after a pass."""

    def usages(epoch, device):
        return usage(3.0, joules(40), seconds=10.0) if epoch else usage(3.0, None, seconds=0.02)

    run = write_run(tmp_path / "run", MODES["every"], usages=usages)
    assert not any("the meter told nothing" in doubt for doubt in doubts_of(run))


def test_savings_are_those_of_the_formula_and_to_equal_accuracy(tmp_path):
    """Chen et al.: 3E/(3 n_A + n_B) less compute, here 12/7."""
    groups = {name: [series_of(write_run(tmp_path / name, modes))] for name, modes in MODES.items()}
    found = compare_groups(groups)
    assert found.accuracy == pytest.approx(0.8)
    assert found.whole["gated"]["client_compute_by_passes"].value == pytest.approx(12 / 7)
    assert found.whole["gated"]["client_cpu_s"].value == pytest.approx(24 / 14)
    assert found.whole["gated"]["bytes"].value == pytest.approx(8 / 5)
    assert found.whole["gated"]["energy_measured_dc_input_j"].value == pytest.approx(24 / 14)
    assert found.per_round["gated"]["bytes"].value == pytest.approx(8 / 5), "as many rounds"
    longer = {"every": groups["every"], "gated": [series_of(write_run(tmp_path / "long", ("exchange",) * 8))]}
    assert compare_groups(longer).whole["gated"]["client_cpu_s"].value == pytest.approx(1 / 2)
    assert compare_groups(longer).per_round["gated"]["client_cpu_s"].value == pytest.approx(1.0)
    earlier = compare_groups(groups, accuracy=0.7)
    assert earlier.to_accuracy["gated"]["client_cpu_s"].value == pytest.approx(18 / 14)
    assert compare_groups(groups, accuracy=0.95).to_accuracy == {"gated": {}}


def test_an_interval_is_welchs_and_needs_repeats():
    assert ratio([4.0], [2.0]) == (2.0, None, None)
    found = ratio([4.0, 4.4, 3.6], [2.0, 2.1, 1.9])
    import numpy as np
    from scipy.stats import ttest_ind

    wanted = ttest_ind(np.log([4.0, 4.4, 3.6]), np.log([2.0, 2.1, 1.9]), equal_var=False).confidence_interval()
    assert found.low <= np.exp(wanted.low) <= found.value <= np.exp(wanted.high) <= found.high
    assert found.low == pytest.approx(np.exp(wanted.low), rel=0.1), (
        "rounded to whole degrees of freedom, on the safe side"
    )
    assert ratio([2.0, 2.0], [1.0, 1.0]) == (2.0, 2.0, 2.0)
    assert str(ratio([4.0], [2.0])) == "2.00x"


def test_measured_and_estimated_joules_stay_apart(tmp_path):
    one = write_run(tmp_path / "one", MODES["every"])
    two = write_run(tmp_path / "two", MODES["every"], usages=lambda *_: usage(3.0, joules(30, "estimated_prior")))
    found = compare_groups({"one": [series_of(one)], "two": [series_of(two)]})
    assert not any(what.startswith("energy") for what in found.whole["two"])


def test_an_estimate_is_made_from_core_seconds_bytes_and_time(tmp_path):
    run = write_run(tmp_path / "run", MODES["every"])
    cost = costs_of(run, board_named("pi4"), slower=2.0)[0]
    active = 0.93 * 2 * 6 + 0.15 * 1e-3 + 0.13 * 1e-3  # of 6 core seconds, that board takes 12, hence 6 s longer
    assert cost.energy["energy_estimated_prior_dc_active_j"].energy_j == pytest.approx(active)
    assert cost.energy["energy_estimated_prior_dc_input_j"].energy_j == pytest.approx((2 * 10 + 6) * 2.7 + active)


def test_a_ratio_is_bounded_over_all_that_the_coefficients_may_be(tmp_path):
    """Against every choice on a grid within their bounds."""
    runs = [write_run(tmp_path / name, modes) for name, modes in MODES.items()]
    board = board_named("pi4")

    def compared(each):
        return compare_groups({run.path.name: [series_of(run, each)] for run in runs})

    low, high = spread([compared(each) for each in corners(board)])["gated"]["energy_estimated_prior_dc_input_j"]
    value = compared(board).whole["gated"]["energy_estimated_prior_dc_input_j"].value
    assert low < value < high
    for share in (0.0, 0.3, 1.0):
        for other in (0.0, 0.6, 1.0):
            moved = [
                (board.idle_w, share),
                (board.core_w, other),
                (board.sent_j_mb, other),
                (board.received_j_mb, share),
            ]
            ends = [msgspec.structs.replace(c, value=c.low + part * (c.high - c.low)) for c, part in moved]
            names = ("idle_w", "core_w", "sent_j_mb", "received_j_mb")
            one = compared(msgspec.structs.replace(board, **dict(zip(names, ends, strict=True))))
            assert low * 0.999999 <= one.whole["gated"]["energy_estimated_prior_dc_input_j"].value <= high * 1.000001


def test_a_pass_without_a_reading_takes_all_joules_away_and_says_so(tmp_path):
    def usages(epoch, device):
        lost = epoch == 1 and device == "b"
        return usage(3.0, None if lost else joules(30), flags=("3 times: the bus was busy",), throttled=("throttled",))

    run = write_run(tmp_path / "run", MODES["every"], usages=usages)
    assert all(cost.energy == {} for cost in costs_of(run))
    assert doubts_of(run) == [
        "run: the meter told nothing in 1 of 8 reports, so there are no joules",
        "run: 3 times: the bus was busy",
        "run: the processor was held back: throttled",
    ]


def test_joules_that_are_nobodys_alone_or_not_of_the_whole_are_left_out(tmp_path):
    def differing(epoch, device):
        return usage(3.0, joules(30, "measured" if device == "a" else "estimated_prior"))

    for name, usages, problem in (
        ("kinds", differing, "its devices have joules of different kinds or scopes"),
        ("shared", lambda *_: usage(3.0, joules(30), meter_id="x"), "several devices read one meter"),
        ("early", lambda *_: usage(3.0, joules(30), seconds=0.01), "its devices last reported after 0 of 40 s"),
    ):
        run = write_run(tmp_path / name, MODES["every"], usages=usages)
        assert all(cost.energy == {} and cost.phases == {} for cost in costs_of(run)), name
        assert doubts_of(run)[0].startswith(f"{name}: {problem}")
    own = write_run(tmp_path / "own", MODES["every"], usages=lambda _, device: usage(3.0, joules(30), meter_id=device))
    assert costs_of(own)[0].energy
    assert doubts_of(own) == []


def test_a_phase_that_some_passes_lack_is_left_out(tmp_path):
    def usages(epoch, device):
        whole = usage(3.0, joules(30))
        return whole if epoch else usage(3.0, joules(30), phases={})

    run = write_run(tmp_path / "run", MODES["every"], usages=usages)
    assert all(cost.energy and not cost.phases for cost in costs_of(run))


def test_what_a_device_says_is_no_markup(tmp_path):
    write_run(tmp_path / "run", MODES["every"], usages=lambda *_: usage(3.0, joules(30), flags=("[/x] boom",)))
    done = cutlayer("profile", "trial", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "[/x] boom" in done.stdout


def test_runs_of_an_older_cutlayer_are_refused(tmp_path):
    run = write_run(tmp_path / "run", MODES["every"], usages=lambda *_: None)
    with pytest.raises(UserError, match="its devices did not report what they spent"):
        costs_of(run)
    with pytest.raises(UserError, match="is neither a run record nor a folder of such"):
        repeats(tmp_path / "nothing")


def cutlayer(*words):
    return subprocess.run(
        [sys.executable, "-m", "cutlayer", *map(str, words)], capture_output=True, text=True, check=False
    )


def test_a_recording_gives_the_joules_between_the_ends_of_epochs(tmp_path):
    run = write_run(tmp_path / "run", MODES["gated"])
    assert run.all(Started)[0].time_s == 0.0
    path = tmp_path / "power.csv"
    path.write_text("time,power\n" + "".join(f"{1000 + at / 100},{2.0 + at / 100}\n" for at in range(0, 4500, 10)))
    found = cutlayer("profile", "trial", tmp_path / "run", "--power", path, "--offset-s", -1000, "--json")
    assert found.returncode == 0, found.stderr
    first, *_ = json.loads(found.stdout)["epochs"]
    energy = first["energy"]["energy_measured_dc_input_j"]
    assert energy["energy_j"] == pytest.approx(2.0 * 10 + 10**2 / 2, rel=1e-6)
    done = cutlayer("profile", "trial", tmp_path / "run", "--power", path)
    assert done.returncode == 2
    assert "let the meter run longer on both sides" in done.stderr
    both = cutlayer("profile", "trial", tmp_path / "run", "--power", path, "--board", "pi4")
    assert both.returncode == 2


def test_as_its_user_runs_it(tmp_path):
    for name, modes in MODES.items():
        for number, scale in enumerate((1.0, 1.05, 0.95)):
            write_run(tmp_path / name / str(number), modes, scale)
    page = tmp_path / "savings.html"
    done = cutlayer("profile", "compare", tmp_path / "every", tmp_path / "gated", "--page", page, "--board", "pi4")
    assert done.returncode == 0, done.stderr
    assert "gated: how many times less than every" in done.stdout
    assert "≈ joules, estimated prior dc input" in done.stdout
    assert "ratios say more than amounts" in " ".join(done.stdout.split())
    text = page.read_text()
    assert re.search(r"client core seconds</td><td>1\.71x \(1\.\d\d to 1\.\d\d\)", text)
    assert text.count("<svg") == 4
    assert "<script" not in text
    assert not re.search(r"(src|href)=.http", text)
    found = json.loads(cutlayer("profile", "compare", tmp_path / "every", tmp_path / "gated", "--json").stdout)
    assert found["whole"]["gated"]["client_compute_by_passes"][0] == pytest.approx(12 / 7)
    shown = cutlayer("profile", "trial", tmp_path / "gated" / "0")
    assert "whole run  140 J (126 to 154; measured, dc_input)" in shown.stdout
    lines = json.loads(cutlayer("profile", "trial", tmp_path / "gated" / "0", "--json").stdout)
    assert [line["client_cpu_s"] for line in lines["epochs"]] == [6, 6, 2, 0]
    assert cutlayer("profile", "compare", tmp_path / "every").returncode == 2
