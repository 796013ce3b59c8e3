import json

import pytest

from cutlayer_core.errors import UserError
from cutlayer_core.record.events import ClientPass, Ended, EpochDone, Joined, Started, Step
from cutlayer_core.record.record import Record, read_run

EVENTS = [
    Started(time_s=0.1, devices={"a": 10}),
    Step(
        time_s=0.2, epoch=0, step=0, device="a", samples=10, loss=0.5, correct=7,
        up_payload_bytes=100, down_payload_bytes=90, raw_payload_bytes=400,
    ),
    ClientPass(time_s=0.3, epoch=0, device="a", steps=1, phases_s={"forward": 0.05}),
    EpochDone(
        time_s=0.4, epoch=0, mode="exchange", loss=0.5, accuracy=0.7, test_loss=0.6, test_accuracy=0.65,
        steps=1, duration_s=0.3, up_bytes=150, down_bytes=140, phases_s={"train": 0.1},
    ),
    Ended(time_s=0.5, ok=True, reason="all 1 epochs are done"),
]  # fmt: skip


def record(path, events=EVENTS, watch=lambda event: None):
    written = Record(path, "name = 'x'\n", watch)
    for event in events:
        written.write(event)
    return written


def test_a_run_is_read_back_as_it_was_written(tmp_path):
    summary = record(tmp_path / "r").close("x")
    run = read_run(tmp_path / "r")
    assert run.events == EVENTS
    assert run.trial_text == "name = 'x'\n"
    assert run.environment["packages"]["numpy"]
    assert summary.up_bytes == 150
    assert (summary.ok, summary.test_accuracy, summary.raw_payload_bytes) == (True, 0.65, 400)
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["steps"] == 1


def test_events_are_on_disk_before_the_run_ends_and_half_a_line_is_left_out(tmp_path):
    unfinished = record(tmp_path / "r", EVENTS[:2])
    with (tmp_path / "r" / "events.jsonl").open("ab") as file:
        file.write(b'{"event":"step","ti')
    run = read_run(tmp_path / "r")
    assert run.events == EVENTS[:2]
    assert not run.summary.ok
    assert "killed" in run.summary.reason
    unfinished.close("x")


def test_a_watcher_sees_every_event(tmp_path):
    seen = []
    record(tmp_path / "r", watch=seen.append).close("x")
    assert seen == EVENTS


def test_a_record_is_never_overwritten(tmp_path):
    record(tmp_path / "r").close("x")
    with pytest.raises(UserError, match="already holds a run"):
        Record(tmp_path / "r", "")


def test_what_is_no_record_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run record"):
        read_run(tmp_path)


class Disk:
    """A disk with room for so many bytes, behind the file of a record."""

    def __init__(self, file, room):
        self._file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(28, "No space left on device")
        written = self._file.write(data[: self.room])
        self.room -= written
        return written

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_a_full_disk_is_an_error_and_leaves_no_half_line(tmp_path):
    written = record(tmp_path / "r", EVENTS[:1])
    written._file = Disk(written._file, room=20)
    with pytest.raises(OSError, match="No space left"):
        written.write(EVENTS[1])
    written._file.room = 10_000
    written.write(EVENTS[2])
    assert read_run(tmp_path / "r").events == [EVENTS[0], EVENTS[2]]
    written.close("x")


def test_devices_that_come_later_are_known_by_their_samples(tmp_path):
    written = record(tmp_path / "r", [*EVENTS[:1], Joined(time_s=0.2, epoch=1, device="b", samples=7)])
    assert written.devices() == {"a": 10, "b": 7}
    written.close("x")
