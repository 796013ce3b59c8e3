import subprocess
import sys

import pytest

from cutlayer_core.address import split_address
from cutlayer_core.errors import UserError


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("server.local", ("server.local", 1883)),
        ("10.0.0.2:1884", ("10.0.0.2", 1884)),
        ("[::1]:1884", ("::1", 1884)),
        ("[::1]", ("::1", 1883)),
    ],
)
def test_addresses(address, wanted):
    assert split_address(address) == wanted


@pytest.mark.parametrize("address", ["", "a:b", "a:0", "a:70000", "a:1:2", "::1"])
def test_a_wrong_address_is_the_users_mistake(address):
    with pytest.raises(UserError, match="allowed: HOST or HOST:PORT"):
        split_address(address)


def device(digits, tmp_path, **changes):
    options = {
        "state": tmp_path,
        "bundle": digits / "client.bundle",
        "broker": "127.0.0.1:1",
        "data": digits / "board-1.npz",
        "name": "board-1",
    }
    arguments = [f"--{name}={value}" for name, value in {**options, **changes}.items()]
    command = [sys.executable, "-m", "cutlayer_device", "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"bundle": "none"}, 2, "cutlayer: bundle none: cannot be read"),
        ({"data": "none.npz"}, 2, "cutlayer: data none.npz: does not exist"),
        ({"name": "a/b"}, 2, "cutlayer: the device name 'a/b': use 1 to 64"),
        ({"broker": "x:y"}, 2, "cutlayer: --broker: found 'x:y'"),
    ],
)
def test_a_mistake_ends_in_one_line_and_a_status(digits, tmp_path, change, status, message):
    finished = device(digits, tmp_path, **change)
    assert finished.returncode == status
    (line,) = finished.stderr.strip().splitlines()
    assert line.startswith(message)
    assert not finished.stdout


@pytest.mark.slow
def test_a_broker_that_does_not_answer_is_told_while_it_is_tried_and_ends_in_one_line(digits, tmp_path):
    finished = device(digits, tmp_path)
    *tried, last = finished.stderr.strip().splitlines()
    assert finished.returncode == 1
    assert tried
    assert all("no MQTT broker answers at 127.0.0.1:1 yet" in each and "trying on" in each for each in tried)
    assert last.startswith("cutlayer: no MQTT broker answers at 127.0.0.1:1 (")
    assert not finished.stdout
