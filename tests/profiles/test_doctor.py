import json
import subprocess
import sys

import pytest

from cutlayer_core.errors import UserError
from cutlayer_profiles.capture import capture, scrubbed
from cutlayer_profiles.doctor import doctor
from cutlayer_profiles.meters import Root, Settings, find_meters
from profiles.boards import INA219, PMIC, board, pi5


@pytest.fixture(autouse=True)
def no_wait_for_a_broker(monkeypatch):
    monkeypatch.setattr("cutlayer_profiles.checks.broker._DEFAULT_S", 0.0)


def test_it_says_what_was_found_and_what_to_do(tmp_path, capsys):
    root = board(tmp_path, {**INA219, "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.5"})
    doctor(None, None, as_json=False, root=root)
    shown = " ".join(capsys.readouterr().out.split())
    assert "unfit" in shown
    assert "shunt_ohm" in shown
    assert "reports no joules until that is mended" in shown
    assert shown.startswith("this machine what status found advice system ok Raspberry Pi 4 Model B Rev 1.5")
    assert " meters what status found advice smart plug absent " in shown
    settings = tmp_path / "meters.toml"
    settings.write_text("shunt_ohm = 0.1")
    doctor(settings, None, as_json=False, root=root)
    assert "reports joules of ina219: simulated, dc_input" in " ".join(capsys.readouterr().out.split())
    doctor(settings, None, as_json=True, root=root)
    (found,) = [each for each in json.loads(capsys.readouterr().out)["meters"] if each["status"] == "found"]
    assert (found["kind"], found["scope"]) == ("simulated", "dc_input")


def test_a_board_without_a_meter_is_estimated_and_a_machine_that_nobody_knows_is_not(tmp_path, capsys):
    doctor(None, None, as_json=False, root=board(tmp_path / "pi", {"proc/device-tree/model": "Raspberry Pi 4 Model B"}))
    assert "≈ joules, estimated by the coefficients of Raspberry Pi 4 Model B" in " ".join(
        capsys.readouterr().out.split()
    )
    doctor(None, None, as_json=False, root=Root(tmp_path / "nothing"))
    assert "there are no coefficients of this machine" in " ".join(capsys.readouterr().out.split())


def test_a_capture_is_a_board_for_others_without_what_is_its_owners(tmp_path):
    link = "Connected to 9c:3d:cf:11:22:33 (on wlan0)\n\tSSID: My home\n\tsignal: -47 dBm\n"
    root = board(pi5(tmp_path / "board").path, {**INA219, "commands/iw_dev_wlan0_link": link})
    assert capture(root, tmp_path / "copy") == 8
    text = (tmp_path / "copy" / "commands" / "iw_dev_wlan0_link").read_text()
    assert text == "Connected to 00:00:00:00:00:00 (on wlan0)\n\tSSID: scrubbed\n\tsignal: -47 dBm\n\n"
    first, again = (
        [(found.probe, found.status, found.detail) for found in find_meters(each, Settings(shunt_ohm=0.1))]
        for each in (root, Root(tmp_path / "copy"))
    )
    assert first == again
    with pytest.raises(UserError, match="is there already: give a new folder"):
        capture(root, tmp_path / "copy")


def test_serials_and_addresses_are_scrubbed_and_readings_are_not():
    assert scrubbed("Serial: 10000000abcdef\nboot_serialno=77") == "Serial: scrubbed\nboot_serialno= scrubbed"
    assert scrubbed("inet 192.168.1.17 up") == "inet 0.0.0.0 up"
    assert scrubbed("sys/class/power_supply/hid-34:88:5d:aa:bb:cc-battery") == (
        "sys/class/power_supply/hid-00:00:00:00:00:00-battery"
    )
    assert scrubbed("enxb827eb123456: 5") == "enx000000000000: 5"
    assert scrubbed(PMIC) == PMIC


def test_on_this_machine_as_a_user_would(tmp_path):
    command = [sys.executable, "-m", "cutlayer", "doctor", "--json", "--capture", str(tmp_path / "mine")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {each["probe"] for each in json.loads(done.stdout)["meters"]} >= {"smart plug"}
    assert "look at them, then send them" in done.stderr
    assert (tmp_path / "mine" / "proc" / "stat").exists()
