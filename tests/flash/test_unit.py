"""The unit by systemd's own word."""

import re
import subprocess

import pytest

from cutlayer_flash.unit import unit_text
from needs import need


@pytest.fixture
def unit(tmp_path):
    """With a program that exists, which `verify` asks for."""
    need("systemd-analyze")
    path = tmp_path / "cutlayer.service"
    path.write_text(unit_text(tls=True).replace("/opt/cutlayer/current/bin/cutlayer-device", "/bin/true"))
    return path


def analyze(*words):
    return subprocess.run(["systemd-analyze", *map(str, words)], capture_output=True, text=True, check=False)


def test_systemd_knows_every_line_of_it(unit):
    done = analyze("verify", "--man=no", unit)
    about_it = [line for line in done.stderr.splitlines() if "cutlayer" in line]
    assert about_it == [], "its status is 0 also for keys that do not exist"
    wrong = unit.with_name("wrong.service")
    wrong.write_text(unit.read_text().replace("WatchdogSec=300", "WatchdogSec=often\nNoSuchKey=1"))
    assert "NoSuchKey" in analyze("verify", "--man=no", wrong).stderr


def test_it_may_do_next_to_nothing(unit):
    done = analyze("security", "--offline=true", "--no-pager", unit)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+) (\w+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= 2.5, done.stdout


def test_certificates_are_handed_over_one_by_one_where_there_are_any():
    assert unit_text(tls=True).count("LoadCredential=") == 3
    assert "LoadCredential" not in unit_text(tls=False)
