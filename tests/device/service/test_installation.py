"""Releases come up, or what ran before runs on: with a program that is really started, by a stand-in for systemd."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cutlayer_core.bundles.release import read_release
from cutlayer_core.errors import CutlayerError, UserError
from cutlayer_device.service import installation
from cutlayer_device.service.installation import Installation, Places, check_board, install
from device.releases import make_release

ASKED = ["daemon-reload", *(f"{word} cutlayer.service" for word in ("enable", "reset-failed", "restart", "is-active"))]
STAND_IN = Path(__file__).parents[2] / "systemctl.py"


class Board:
    """A board's folders, and its systemd."""

    def __init__(self, folder):
        self.folder, self.places = folder, Places(folder / "opt", folder / "units")

    @property
    def runs(self):
        """The name of the release whose program is alive."""
        pid = self.folder / "run" / "pid"
        if not pid.exists() or not Path(f"/proc/{pid.read_text()}").exists():
            return None
        return (self.folder / "run" / "log").read_text().split(" runs")[-2].split("\n")[-1]

    @property
    def current(self):
        return Installation(self.places).current

    @property
    def left_over(self):
        """What is there beside whole releases and the link."""
        releases = self.places.home / "releases"
        return [path.name for path in (*self.places.home.iterdir(), *releases.iterdir()) if path.name.endswith(".part")]


@pytest.fixture
def board(tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "systemctl").symlink_to(STAND_IN)
    board = Board(tmp_path)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for name, folder in (
        ("UNIT_FOLDER", board.places.units),
        ("HOME_FOLDER", board.places.home),
        ("RUN_FOLDER", tmp_path / "run"),
    ):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setattr(installation, "_SETTLES_S", 0.3)
    yield board
    subprocess.run(["systemctl", "disable", "--now", "cutlayer.service"], check=True)


def test_a_release_is_put_in_its_place_and_runs(board, capsys):
    place = install(make_release(board.folder, "one"), board.places)
    assert (board.runs, board.current) == ("one", place)
    assert "it works" in capsys.readouterr().out
    unit = (board.places.units / "cutlayer.service").read_text()
    assert "SupplementaryGroups=video i2c" not in unit, "groups that this machine lacks are left out"
    asked = (board.folder / "run" / "asked").read_text().splitlines()
    assert asked == ASKED


def test_the_next_one_takes_over_and_only_the_one_before_is_kept(board):
    places = [install(make_release(board.folder, name), board.places) for name in ("one", "two", "three")]
    assert (board.runs, board.current) == ("three", places[2])
    assert sorted(path.name for path in (board.places.home / "releases").iterdir()) == sorted(
        path.name for path in places[1:]
    )


def test_installing_the_same_again_is_no_mistake(board):
    source = make_release(board.folder, "one")
    assert install(source, board.places) == install(source, board.places)
    (board.current / "ballast").write_bytes(b"the card forgot")
    install(source, board.places)
    assert (board.current / "ballast").read_bytes() == b""


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ({"check": "sys.exit('no such cut')"}, "does not work here: no such cut"),
        (
            {"check": "os.kill(os.getpid(), 4)"},
            "killed by signal 4: a package has instructions that this processor lacks",
        ),
        ({"service": "sys.exit(1)"}, "does not come up"),
        ({"after": "sys.exit(1)"}, "does not come up"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_one_that_does_not_come_up_is_taken_back(board, broken, why, first):
    before = None if first else install(make_release(board.folder, "good"), board.places)
    with pytest.raises(CutlayerError, match=why):
        install(make_release(board.folder, "bad", **broken), board.places)
    assert board.current == before
    assert board.runs == (None if first else "good")
    assert not first or not (board.places.units / "cutlayer.service").exists()
    assert board.left_over == []
    assert [path for path in (board.places.home / "releases").iterdir() if path != before] == []


def test_a_copy_that_is_not_whole_changes_nothing(board):
    before = install(make_release(board.folder, "good"), board.places)
    for spoil, why in (
        (lambda path: (path / "ballast").write_bytes(b"x"), "ballast is not what was built"),
        (lambda path: (path / "ballast").unlink(), "ballast is missing"),
        (lambda path: (path / "more").write_bytes(b"x"), "more does not belong here"),
        (lambda path: (path / "release.json").write_bytes(b"{"), "is not a release of cutlayer"),
    ):
        source = make_release(board.folder, "spoilt")
        spoil(source)
        with pytest.raises(UserError, match=why):
            install(source, board.places)
        shutil.rmtree(source)
        assert (board.runs, board.current, board.left_over) == ("good", before, [])


def test_a_full_disk_changes_nothing(board, monkeypatch):
    before = install(make_release(board.folder, "good"), board.places)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(UserError, match="cannot be written, nothing was changed"):
        install(make_release(board.folder, "next"), board.places)
    assert (board.runs, board.current, board.left_over) == ("good", before, [])


def test_a_release_for_another_board_is_refused(board, monkeypatch):
    for changes, why in (
        ({"machine": "armv7l"}, "the release is for armv7l"),
        ({"python": "3.9"}, "the release is for 3.9"),
    ):
        source = make_release(board.folder, f"other{len(changes)}{why[-3:]}", **changes)
        with pytest.raises(UserError, match=why):
            check_board(read_release(source), board.places)
    source = make_release(board.folder, "large")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(UserError, match="make room, nothing was changed"):
        check_board(read_release(source), board.places)


def test_a_half_finished_copy_of_before_a_power_cut_is_no_obstacle(board):
    source = make_release(board.folder, "one")
    unfinished = board.places.home / "releases" / f"{read_release(source).release}.part"
    unfinished.mkdir(parents=True)
    (unfinished / "rubbish").write_text("x")
    install(source, board.places)
    assert (board.runs, board.left_over) == ("one", [])


def test_a_tight_umask_on_the_way_does_not_keep_the_services_user_out(board, monkeypatch):
    source = make_release(board.folder, "one")
    (source / "tls").mkdir()
    for path in (source, *source.rglob("*")):
        path.chmod(0o700 if path.is_dir() or path.parent.name == "bin" else 0o600)
    before = os.umask(0o077)
    try:
        place = Installation(board.places).add(source, read_release(source))
    finally:
        os.umask(before)
    for path in (place, place.parent, board.places.home, place / "bin", place / "bin" / "cutlayer-device"):
        assert path.stat().st_mode & 0o777 == 0o755, path
    assert (place / "config.toml").stat().st_mode & 0o777 == 0o644
    assert (place / "tls").stat().st_mode & 0o777 == 0o700


def test_an_opt_that_is_a_link_to_a_larger_disk(board):
    (board.folder / "nvme").mkdir()
    board.places.home.symlink_to(board.folder / "nvme")
    for name in ("one", "two", "three"):
        place = install(make_release(board.folder, name), board.places)
    assert (board.runs, board.current) == ("three", place)
    assert place.exists()
    assert len(list(place.parent.iterdir())) == 2


def test_who_breaks_it_off_gets_back_what_ran(board, monkeypatch):
    before = install(make_release(board.folder, "good"), board.places)

    asked = installation._systemctl

    def interrupted(*words):
        if words[0] == "is-active":
            raise KeyboardInterrupt
        asked(*words)

    monkeypatch.setattr(installation, "_systemctl", interrupted)
    with pytest.raises(KeyboardInterrupt):
        install(make_release(board.folder, "next"), board.places)
    assert (board.runs, board.current, board.left_over) == ("good", before, [])
