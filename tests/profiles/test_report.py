"""The report, by its text and by a real browser that has no network."""

import re
import subprocess
from html.parser import HTMLParser

import pytest

from cutlayer_core.record.energy import Energy
from cutlayer_core.record.events import ClientPass, Ended, EpochDone, Joined, Missed, Quarantined, Resumed, Started
from cutlayer_core.record.record import Record, read_run
from cutlayer_core.record.usage import Slot, Usage
from cutlayer_profiles.report import write_report
from cutlayer_profiles.report.charts import phase_chart
from harness import digits_trial, run_trial


@pytest.fixture(scope="module")
def run_dir(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "demo"
    run_trial(digits, digits_trial(digits, epochs=3), path)
    write_report(path)
    return path


class References(HTMLParser):
    """Everything that a page would fetch, and the text it shows."""

    def __init__(self):
        super().__init__()
        self.fetched, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href") and value and not value.startswith("#"):
                self.fetched.append(value)


def test_the_page_fetches_nothing_and_runs_no_script(run_dir):
    page = References()
    page.feed((run_dir / "report.html").read_text())
    assert page.fetched == []
    assert "script" not in page.tags
    assert page.tags.count("svg") == 4


def test_numbers_on_the_page_are_those_of_the_record(run_dir):
    text = (run_dir / "report.html").read_text()
    summary = read_run(run_dir).summary
    assert f"{100 * summary.test_accuracy:.1f} %" in text
    assert f"{summary.up_bytes / 1e6:.2f} MB" in text
    assert "4.0\u00d7" in text
    assert "all 3 epochs are done" in text


def test_a_trial_without_codecs_says_why_nothing_got_smaller(tmp_path):
    record = Record(tmp_path / "r", 'name = "mine"')
    record.write(Ended(time_s=0.1, ok=True, reason="done"))
    record.close("mine")
    text = write_report(tmp_path / "r").read_text()
    assert (
        "Codec: up raw, down raw (no [codec] in the trial file: float32 as it is; fp8 makes it 4 times smaller)."
        in text
    )


def test_the_same_record_gives_the_same_page(run_dir):
    first = (run_dir / "report.html").read_text()
    write_report(run_dir)
    assert (run_dir / "report.html").read_text() == first


def test_what_came_over_the_network_is_escaped(tmp_path):
    record = Record(tmp_path / "r", "name = '</pre><script>alert(1)</script>'")
    record.write(Started(time_s=0.0, devices={"<b>": 1}))
    record.write(Ended(time_s=0.1, ok=False, reason="<script>alert(2)</script> is gone"))
    record.close("<i>")
    text = write_report(tmp_path / "r").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;alert(2)" in text


def test_a_run_that_failed_before_its_first_epoch_has_a_page_that_says_so(tmp_path):
    record = Record(tmp_path / "r", "")
    record.write(Ended(time_s=0.1, ok=False, reason="board-1 is gone"))
    record.close("r")
    text = write_report(tmp_path / "r").read_text()
    assert 'class="reason failed">board-1 is gone' in text
    assert "<svg" not in text


def test_faults_are_listed(tmp_path):
    record = Record(tmp_path / "r", "")
    record.write(Quarantined(time_s=3.0, device="board-2", reason="it sent <nonsense>"))
    record.write(Resumed(time_s=4.5, kept=0, epoch=2, step=31, reason="board-1 started anew"))
    record.write(Missed(time_s=5.0, epoch=2, device="board-3", reason="nothing was heard"))
    record.write(
        EpochDone(
            time_s=6.0, epoch=2, mode="exchange", loss=1.0, accuracy=0.5, test_loss=1.0, test_accuracy=0.5, steps=1,
            duration_s=1.0, up_bytes=1, down_bytes=1, phases_s={"train": 1.0}, missing=("board-3",),
        )
    )  # fmt: skip
    record.write(Joined(time_s=7.0, epoch=3, device="board-3", samples=5))
    record.write(Ended(time_s=9.0, ok=True, reason="done"))
    assert record.close("r").missed == {"board-3": 1}
    text = write_report(tmp_path / "r").read_text()
    assert "<td>board-3 was missed: nothing was heard</td><td>there, without it</td>" in text
    assert "<td>board-3 joined</td><td>epoch 4</td>" in text
    assert "<td>board-3</td></tr>" in text
    assert "board-2 was left out: it sent &lt;nonsense&gt;" in text
    assert "<td>board-1 started anew</td><td>step 31 of epoch 3</td>" in text


def test_what_devices_spent_is_shown_with_its_kind_and_scope(tmp_path):
    def energy(energy_j, kind):
        return Energy(energy_j=energy_j, low_j=energy_j, high_j=energy_j, kind=kind, scope="dc_input")

    record = Record(tmp_path, 'name = "t"')
    for device, kind in (("a", "measured"), ("b", "estimated_prior")):
        trace = (Slot(power_w=2.0, phase="wait"), Slot(power_w=4.0, phase="forward")) if kind == "measured" else ()
        usage = Usage(
            seconds=3.0, cpu_s=1.5, rss_peak_bytes=2**27, meter="m", energy=energy(9.0, kind),
            phases={"forward": energy(6.0, kind)}, trace=trace, flags=("<b>hot</b>",),
        )  # fmt: skip
        record.write(ClientPass(time_s=3.0, epoch=0, device=device, steps=1, phases_s={"forward": 1.0}, usage=usage))
    record.write(
        EpochDone(
            time_s=4.0, epoch=0, mode="exchange", loss=1.0, accuracy=0.5, test_loss=1.0, test_accuracy=0.5, steps=1,
            duration_s=1.0, up_bytes=1, down_bytes=1, phases_s={"train": 1.0},
        )
    )  # fmt: skip
    record.close("t")
    text = write_report(tmp_path).read_text()
    assert "9 J (9 to 9; measured, dc_input)" in text
    assert "≈ 9 J (9 to 9; estimated_prior, dc_input)" in text
    assert "18 J" not in text
    for title in (
        "Joules a round, measured dc input",
        "Joules a round, estimated prior dc input",
        "Power, measured dc input",
    ):
        assert f"<figcaption>{title}</figcaption>" in text
    assert "Power, estimated" not in text
    assert "<b>hot" not in text


def test_an_unknown_phase_is_drawn_too():
    assert "<svg" in phase_chart({"server": {"train": 1.0, "ponder": 2.0}, "board": {"forward": 0.5}})


@pytest.mark.needs("chromium")
def test_a_browser_without_a_network_draws_the_charts(run_dir, tmp_path):
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path}/profile", "--window-size=1200,1600", "--force-device-scale-factor=1",
        f"--screenshot={tmp_path}/page.png", f"file://{run_dir}/report.html",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=90)
    from PIL import Image

    with Image.open(tmp_path / "page.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(maxcolors=10**6)}
    for name, chart_colour in (("loss", "2f6fde"), ("traffic", "e0793a"), ("phases", "6a4fbf")):
        assert tuple(bytes.fromhex(chart_colour)) in colours, name


def test_the_page_has_no_machine_path(run_dir):
    assert not re.search(r"/(home|root|work|tmp)/", (run_dir / "report.html").read_text())
