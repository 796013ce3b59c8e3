"""Meters against what boards show; the sums were computed by hand or by whoever captured them."""

import re
import struct
from pathlib import Path

import pytest

from cutlayer_core.errors import UserError
from cutlayer_profiles.meters import Root, Settings, battery, find_meters, ina, jetson, pmic, rapl, read_settings
from profiles.boards import AGX_ORIN, HWMON, INA219, NANO, ORIN_NANO, PMIC, RAPL, board, pi5

DOCS = Path(__file__).parents[2] / "docs"
CONFIRMED = Settings(shunt_ohm=0.1)


def test_the_rails_of_a_raspberry_pi_5_are_paired_by_name():
    rails = pmic.parse_pmic(PMIC)
    assert len(rails.power_w) == 12
    assert rails.sum_w == pytest.approx(10.799894, abs=5e-7)
    golden = {"VDD_CORE": 9.761433, "0V8_SW": 0.263171, "1V8_SYS": 0.289576, "HDMI": 0.069341, "DDR_VDD2": 0.008611}
    assert {name: round(rails.power_w[name], 6) for name in golden} == golden
    assert rails.unpaired == ["BATT", "EXT5V"]
    renamed = pmic.parse_pmic(PMIC.replace("0V8_SW", "0V8_SYS"))  # as other captures have it
    assert renamed.sum_w == pytest.approx(rails.sum_w)


def test_a_raspberry_pi_5_is_a_partial_meter_and_a_correction_makes_it_an_estimate(tmp_path):
    (found,) = pmic.probe(pi5(tmp_path), Settings())
    assert (found.status, found.meter.scope, found.meter._real_kind) == ("found", "pmic_rails", "measured")
    assert found.meter.read() == pytest.approx(10.799894, abs=5e-7)
    (found,) = pmic.probe(Root(tmp_path), Settings(pmic_correction="rpi5-jfikar-2024"))
    assert (found.meter.scope, found.meter._real_kind) == ("dc_input", "estimated_calibrated")
    assert found.meter.read() == pytest.approx(12.954859, abs=5e-7)


def test_other_raspberry_pis_have_no_such_chip(tmp_path):
    (found,) = pmic.probe(pi5(tmp_path, 'error=1 error_msg="Command not registered"\n'), Settings())
    assert found.status == "absent"
    assert "Command not registered" in found.detail


def test_only_a_raspberry_pi_5_is_asked(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "/dev/vcio")

    monkeypatch.setattr(pmic, "_ask", refuse)
    pi4 = board(tmp_path / "4", {"proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.5"})
    assert pmic.probe(pi4, Settings())[0].status == "absent"
    five = board(tmp_path / "5", {"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0"})
    assert pmic.probe(five, Settings())[0].status == "denied"
    monkeypatch.undo()
    assert pmic.probe(five, Settings())[0].status == "unfit", "it has the chip, so nothing may take its place unnoticed"


def test_the_firmware_is_asked_by_ioctl_as_vcgencmd_does(monkeypatch):
    def firmware(device, number, buffer, _):
        assert number == 0xC0086400
        assert len(buffer) == 4124
        assert struct.unpack_from("<6I", buffer) == (4124, 0, 0x00030080, 4096, 0, 0)
        command = bytes(buffer[24:]).split(b"\0")[0]
        text, error = (PMIC, 0) if command == b"pmic_read_adc" else ('error=1 error_msg="Command not registered"', 1)
        buffer[24 : 24 + len(text)] = text.encode()
        struct.pack_into("<I", buffer, 20, error)

    monkeypatch.setattr(pmic.fcntl, "ioctl", firmware)
    assert pmic.parse_pmic(pmic._ioctl(Root(), "dev/null", "pmic_read_adc")).sum_w == pytest.approx(10.799894, abs=5e-7)
    with pytest.raises(OSError, match="Command not registered"):
        pmic._ioctl(Root(), "dev/null", "nonsense")


def test_a_chip_that_may_not_be_asked_is_told_from_one_that_is_not_there(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "/dev/vcio")

    monkeypatch.setattr(pmic, "_ask", refuse)
    (found,) = pmic.probe(Root(tmp_path), Settings())
    assert found.status == "denied"
    assert 'KERNEL=="vcio*", GROUP="video", MODE="0660"' in found.mend


def test_an_ina219_is_read_once_its_shunt_is_confirmed(tmp_path):
    root = board(tmp_path, INA219)
    (found,) = ina.probe(root, Settings())
    assert found.status == "unfit"
    assert "a shunt of 0.1 ohm that nobody has confirmed" in found.detail
    (found,) = ina.probe(root, CONFIRMED)
    assert found.status == "found"
    assert found.meter.read() == pytest.approx(3.159520)
    assert found.meter.scope == "dc_input"


def test_a_shunt_ten_times_too_small_is_refused_with_the_command_that_mends_it(tmp_path):
    root = board(tmp_path, {**INA219, f"{HWMON}/shunt_resistor": "10000", f"{HWMON}/curr1_input": "6200"})
    (found,) = ina.probe(root, CONFIRMED)
    assert found.status == "unfit"
    assert found.mend == f"echo 100000 | sudo tee /{HWMON}/shunt_resistor"


def test_an_ina226_that_clips_says_so_before_and_while_it_is_read(tmp_path):
    good = {**INA219, f"{HWMON}/name": "ina226"}
    (found,) = ina.probe(board(tmp_path, good), CONFIRMED)
    assert found.status == "found"
    board(tmp_path, {f"{HWMON}/in0_input": "82"})
    with pytest.raises(ValueError, match=r"82.0 mV at the shunt is the end of its scale: it clips at 0.82 A"):
        found.meter.read()
    (found,) = ina.probe(Root(tmp_path), CONFIRMED)
    assert (found.status, found.meter) == ("unfit", None)


def test_a_chip_that_contradicts_itself_is_not_trusted(tmp_path):
    (found,) = ina.probe(board(tmp_path, {**INA219, f"{HWMON}/power1_input": "4000000"}), CONFIRMED)
    assert found.status == "unfit"
    assert "V x A is 3.16 W, the chip says 4.00 W" in found.detail


def test_a_load_that_changes_between_two_files_is_no_contradiction(tmp_path, monkeypatch):
    (found,) = ina.probe(board(tmp_path, INA219), CONFIRMED)
    board(tmp_path, {f"{HWMON}/power1_input": "4000000"})
    assert found.meter.read() == pytest.approx(3.159520), "each file is a conversion of its own"


def test_an_ina260_has_its_shunt_inside(tmp_path):
    files = {name: text for name, text in INA219.items() if not name.endswith(("in0_input", "shunt_resistor"))}
    (found,) = ina.probe(board(tmp_path, {**files, f"{HWMON}/name": "ina260"}), Settings())
    assert found.meter.read() == pytest.approx(3.159520)


def test_a_sensor_is_found_whatever_its_number(tmp_path):
    root = board(tmp_path, {name.replace("hwmon3", "hwmon17"): text for name, text in INA219.items()})
    (root.path / "sys" / "devices" / "1-0040").mkdir(parents=True)
    (root.path / "sys/class/hwmon/hwmon17/device").symlink_to("../../../devices/1-0040")
    (found,) = ina.probe(root, CONFIRMED)
    assert found.probe == "ina219 at 1-0040"


@pytest.mark.parametrize(
    ("files", "name", "watts", "scope"),
    [
        (NANO, "Jetson POM_5V_IN", 5.024 * 0.352, "module_input"),
        (ORIN_NANO, "Jetson VDD_IN", 5.7072, "module_input"),
        (AGX_ORIN, "Jetson, sum of VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0, VDDQ_VDD2_1V8AO", 14.3, "soc_rails"),
        (
            {
                "sys/class/hwmon/hwmon5/name": "ina238",
                "sys/class/hwmon/hwmon5/power1_input": "31250000",
                "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit",
            },
            "Jetson VIN",
            31.25,
            "module_input",
        ),
    ],
    ids=["Nano", "Orin Nano", "AGX Orin", "Thor"],
)
def test_a_jetson_is_the_rail_that_feeds_it_and_never_a_total_with_its_parts(tmp_path, files, name, watts, scope):
    (found,) = jetson.probe(board(tmp_path, files), Settings())
    assert found.meter.name == name
    assert found.meter.read() == pytest.approx(watts)
    assert found.meter.scope == scope


def test_an_ina238_elsewhere_is_somebodys_own_and_a_rail_that_is_off_does_not_matter(tmp_path):
    own = {"sys/class/hwmon/hwmon5/name": "ina238", "sys/class/hwmon/hwmon5/power1_input": "31250000"}
    (found,) = jetson.probe(board(tmp_path / "pi", own), Settings())
    assert found.status == "absent"
    off = {name: text for name, text in ORIN_NANO.items() if not name.endswith("curr2_input")}
    (found,) = jetson.probe(board(tmp_path / "orin", off), Settings())
    assert found.meter.read() == pytest.approx(5.7072)


def test_a_counter_that_wraps_goes_on(tmp_path):
    root = board(tmp_path, RAPL)
    (found,) = rapl.probe(root, Settings())
    assert found.meter.name == "RAPL package-0:0", "cores are a part of the package"
    assert found.meter.counts
    board(tmp_path, {"sys/class/powercap/intel-rapl:0/energy_uj": "1000000"})
    assert found.meter.read() == pytest.approx(1.328850)
    board(tmp_path, {"sys/class/powercap/intel-rapl:0/energy_uj": "3000000"})
    assert found.meter.read() == pytest.approx(3.328850)


BATTERY = {
    "sys/class/power_supply/BAT0/type": "Battery",
    "sys/class/power_supply/BAT0/status": "Discharging",
    "sys/class/power_supply/BAT0/current_now": "-1250000",
    "sys/class/power_supply/BAT0/voltage_now": "3800000",
    "sys/class/power_supply/ucsi-source-psy-1/type": "USB",
}


def test_a_battery_is_read_while_it_is_drained(tmp_path):
    (found,) = battery.probe(board(tmp_path, BATTERY), Settings())
    assert found.meter.read() == pytest.approx(4.75), "whatever the sign of the current"
    board(tmp_path, {"sys/class/power_supply/BAT0/power_now": "4800000"})
    assert found.meter.read() == pytest.approx(4.8)
    board(tmp_path, {"sys/class/power_supply/BAT0/status": "Charging"})
    with pytest.raises(ValueError, match="the battery is charging: pull the charger"):
        found.meter.read()
    (found,) = battery.probe(Root(tmp_path), Settings())
    assert found.status == "absent"
    board(
        tmp_path, {"sys/class/power_supply/BAT0/status": "Discharging", "sys/class/power_supply/BAT0/scope": "Device"}
    )
    (found,) = battery.probe(Root(tmp_path), Settings())
    assert found.detail == "no battery in /sys/class/power_supply", "a mouse's is none of the board"


@pytest.mark.parametrize(
    "files", [INA219, NANO, ORIN_NANO, AGX_ORIN, RAPL, BATTERY, {"commands/vcgencmd_pmic_read_adc": PMIC}]
)
def test_whatever_is_read_from_copied_files_is_simulated(tmp_path, files):
    meters = [found.meter for found in find_meters(board(tmp_path, files), CONFIRMED) if found.meter]
    assert len(meters) == 1
    assert meters[0].kind == "simulated"
    with pytest.raises(AttributeError):
        meters[0].kind = "measured"


def test_this_machine_is_searched_without_harm():
    findings = find_meters(Root(), Settings())
    assert {found.status for found in findings} <= {"found", "absent", "denied", "unfit"}
    assert all(found.meter.kind != "simulated" for found in findings if found.meter)


def test_a_board_without_any_says_what_was_looked_for(tmp_path):
    findings = find_meters(Root(tmp_path), Settings())
    assert [found.status for found in findings] == ["absent"] * 6
    assert all(found.detail for found in findings)


def test_settings_are_read_with_errors_that_name_the_key(tmp_path):
    path = tmp_path / "meters.toml"
    path.write_text('shunt_ohm = 0.01\n[plug]\nid = "shelly"\nhost = "10.0.0.9"\n')
    assert read_settings(path).plug.generation == 2
    for text, message in (
        ("shunt_ohm = 0", "shunt_ohm: found 0, allowed: a number, above 0"),
        ("shunt_ohm = inf", "shunt_ohm: found inf, allowed: a finite number"),
        ("shunt = 0.1", "found the unknown key 'shunt', allowed: shunt_ohm"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_settings(path)
    assert read_settings(None) == Settings()
    (block,) = re.findall(r"```text\n(shunt_ohm.*?)```", (DOCS / "energy.md").read_text(), re.DOTALL)
    path.write_text(block)
    assert read_settings(path).board == "pi4"
