"""What happens where a program that tests start is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tools

TESTS = """\
import pytest
from needs import need

@pytest.fixture(scope="session")
def broker():
    need("mosquitto")

@pytest.mark.needs("chromium")
@pytest.mark.parametrize("page", range(2))
def test_page(page): pass

def test_broker(broker): pass

@pytest.mark.needs("mosquitto", "shellcheck")
def test_both(): pass

def test_nothing(): pass

@pytest.mark.skip(reason="for a reason of its own")
def test_other(): pass
"""


@pytest.fixture
def run(tmp_path):
    """pytest on the tests above, with a PATH on which only these programs are."""

    def run_tests(*words, programs=(), **settings):
        (tmp_path / "test_them.py").write_text(TESTS)
        (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    needs: of the system\n")
        (tmp_path / "bin").mkdir()
        for name in programs:
            (tmp_path / "bin" / name).symlink_to("/bin/true")
        kept = {key: value for key, value in os.environ.items() if key != "CI" and not key.startswith("PYTEST")}
        environment = {**kept, "PATH": str(tmp_path / "bin"), "PYTHONPATH": str(Path(__file__).parent), **settings}
        command = [sys.executable, "-m", "pytest", "-p", "needs", "-p", "no:cacheprovider", *words, "test_them.py"]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        ).stdout

    return run_tests


@pytest.mark.parametrize("words", [["--numprocesses=0"], ["--numprocesses=2"]], ids=["alone", "spread"])
def test_they_are_passed_over_and_counted_in_one_line(run, words):
    lines = run(*words, programs=["shellcheck"]).splitlines()
    as_root = "" if os.geteuid() == 0 else "sudo "
    said = f"4 tests were not run, for want of chromium, mosquitto: {as_root}apt-get install --yes chromium mosquitto"
    assert [line for line in lines if "for want of" in line] == [said]
    assert "1 passed, 5 skipped" in lines[-1]


def test_nothing_is_said_where_all_are_there(run):
    out = run("--numprocesses=0", programs=["mosquitto", "chromium", "shellcheck"])
    assert "for want of" not in out
    assert "5 passed, 1 skipped" in out


def test_in_ci_they_fail(run):
    out = run("--numprocesses=0", programs=["shellcheck"], CI="true")
    assert "not installed: chromium (tests/tools.py)" in out
    assert "2 passed, 1 skipped" not in out
    assert "1 passed, 1 skipped" in out


class Machine:
    """One without chromium, on which commands do as they are told to."""

    def __init__(self, monkeypatch, folder, user=0):
        self.asked, self.folder = folder / "asked", folder / "bin"
        self.folder.mkdir()
        monkeypatch.setattr("os.geteuid", lambda: user)
        monkeypatch.setenv("PATH", str(self.folder))
        monkeypatch.delenv("CI", raising=False)
        monkeypatch.setattr(tools, "TOOLS", {name: tool for name, tool in tools.TOOLS.items() if "/" not in name})
        for name in tools.TOOLS:
            if name not in {"chromium", "apt-get"}:
                (self.folder / name).symlink_to("/bin/true")

    def add(self, name, status=0):
        script = f'#!/bin/sh\necho {name} "$@" >> {self.asked}\nexit {status}\n'
        (self.folder / name).write_text(script)
        (self.folder / name).chmod(0o755)


@pytest.mark.parametrize(("user", "before"), [(0, "apt-get"), (1000, "sudo apt-get")])
def test_what_is_missing_is_installed_where_that_is_allowed(monkeypatch, tmp_path, user, before):
    machine = Machine(monkeypatch, tmp_path, user)
    machine.add("apt-get")
    machine.add("sudo")
    assert tools.main([]) == 0
    asked = machine.asked.read_text().splitlines()
    assert asked[-2:] == [f"{before} update --quiet=2", f"{before} install --yes chromium"]


@pytest.mark.parametrize(("ci", "status"), [("", False), ("true", True)])
def test_where_it_is_not_the_command_is_said_and_only_ci_stops(monkeypatch, tmp_path, capsys, ci, status):
    machine = Machine(monkeypatch, tmp_path, user=1000)
    machine.add("apt-get")
    machine.add("sudo", status=1)
    monkeypatch.setenv("CI", ci)
    assert tools.main([]) == status
    said = capsys.readouterr().out
    assert said == "not installed: chromium. To run their tests too: sudo apt-get install --yes chromium\n"


def test_what_only_slow_tests_start_is_installed_for_them_only(monkeypatch, tmp_path, capsys):
    machine = Machine(monkeypatch, tmp_path)
    machine.add("apt-get")
    (machine.folder / "qemu-arm-static").unlink()
    (machine.folder / "chromium").symlink_to("/bin/true")
    assert tools.main([]) == 0
    assert not machine.asked.exists()
    assert tools.main(["slow"]) == 0
    assert "qemu-user-static" in machine.asked.read_text()
