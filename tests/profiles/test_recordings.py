import numpy as np
import pytest

from cutlayer_core.errors import UserError
from cutlayer_profiles.recordings import read_csv, read_tegrastats

NANO = (
    "RAM 1923/3964MB (lfb 2x2MB) SWAP 191/1982MB (cached 6MB) CPU [5%@1224,4%@1224,3%@1224,6%@1224] GR3D_FREQ 0%@76 "
    "AO@45C thermal@40C POM_5V_IN 1750/1628 POM_5V_GPU 0/0 POM_5V_CPU 366/406"
)
ORIN = (
    "11-30-2025 13:26:0{} RAM 2461/7620MB (lfb 3x2MB) CPU [19%@729,14%@729] gpu@48.218C tj@48.843C VDD_IN {}mW/5704mW "
    "VDD_CPU_GPU_CV 831mW/831mW VDD_SOC 1624mW/1624mW"
)
AGX = (
    "07-25-2026 09:08:28 RAM 20642/62817MB cpu@52.968C/52.968C VDD_GPU_SOC 5139mW/5139mW/5139mW "
    "VDD_CPU_CV 3268mW/3268mW/3268mW VIN_SYS_5V0 5500mW/5500mW/5500mW"
)


@pytest.mark.parametrize(
    ("text", "at_s", "power_w"),
    [
        ("time,power\n0,1.5\n0.5,2\n", [0, 0.5], [1.5, 2]),
        ("t_ms,current (µA),v\n0,300000,5\n500,400000,5\n", [0, 0.5], [1.5, 2]),
        ("t_ms,Power (mW)\n0,1500\n500,2000\n", [0, 0.5], [1.5, 2]),
        ("Time (s),Main Current (mA),Main Voltage (V)\n1,300,5\n2,400,5\n", [1, 2], [1.5, 2]),
        (
            "timestamp,voltage,current\n2026-01-01T00:00:00Z,5,0.3\n2026-01-01 00:00:01,5,0.4\n",
            [1767225600, 1767225601],
            [1.5, 2],
        ),
    ],
)
def test_columns_are_known_by_their_heads_and_units(tmp_path, text, at_s, power_w):
    path = tmp_path / "power.csv"
    path.write_text("\ufeff" + text)
    samples = read_csv(path, offset_s=10)
    np.testing.assert_allclose(samples.at_s, np.array(at_s) + 10)
    np.testing.assert_allclose(samples.values, power_w)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found the columns none, allowed: time, and power, or voltage and current"),
        ("time,volts\n", "found the columns time, volts"),
        ("time,power\n0,1\n1,many\n", "line 3: could not convert string to float: 'many'"),
        ("time,power\n0\n", "line 2: list index out of range"),
        ("time (min),power\n0,1\n", "found the unit 'min', allowed: "),
    ],
)
def test_a_file_that_is_none_is_refused_by_line(tmp_path, text, message):
    path = tmp_path / "power.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_csv(path)


def test_tegrastats_tells_the_power_now_in_all_its_dialects():
    old = read_tegrastats([NANO, "a line of something else", NANO.replace("1750/", "2000/")], interval_s=0.5)
    assert (list(old.at_s), list(old.values)) == ([0, 0.5], [1.75, 2.0])
    new = read_tegrastats([ORIN.format(1, 5704), ORIN.format(3, 6000)])
    assert np.diff(new.at_s) == [2]
    assert list(new.values) == [5.704, 6.0]
    with pytest.raises(UserError, match="say how far apart its lines are"):
        read_tegrastats([NANO])
    with pytest.raises(UserError, match="an AGX Orin has no rail for the whole module"):
        read_tegrastats([AGX])
