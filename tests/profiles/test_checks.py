"""What `cutlayer doctor` says of a machine, on machines made of files, with packages hidden, and beside a real broker."""

import json
import re
import shutil
import socket
import subprocess
import sys
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from cutlayer_core.engines import ENGINES
from cutlayer_core.errors import UserError
from cutlayer_profiles.checks import BrokerAddress, broker_to_try
from cutlayer_profiles.checks.broker import check_broker
from cutlayer_profiles.checks.clock import RELEASE_YEAR, check_clock
from cutlayer_profiles.checks.hardware import check_cores, check_disk, check_memory, check_system
from cutlayer_profiles.checks.software import USES, check_engines, check_packages, check_python, distribution_of
from cutlayer_profiles.meters import Root
from profiles.boards import board

TIMEDATECTL = "commands/timedatectl_show_-p_NTPSynchronized"
PI4 = {
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.5\0",
    "proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
    "proc/meminfo": "MemTotal:        3884360 kB\nMemFree:          200000 kB\nMemAvailable:    3115600 kB\n",
    TIMEDATECTL: "NTPSynchronized=yes\n",
}


def seconds(year):
    return datetime(year, 3, 1, tzinfo=timezone.utc).timestamp()


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_board_is_described_from_its_files(tmp_path):
    root = board(tmp_path, PI4)
    assert check_system(root).found.startswith(
        "Raspberry Pi 4 Model B Rev 1.5 (bcm2711), Debian GNU/Linux 12 (bookworm), "
    )
    assert check_memory(root)[1:] == ("ok", "4.0 GB, 3.2 GB of it free", "")
    assert int(check_cores().found) >= 1


def test_a_machine_that_tells_nothing_is_no_trouble(tmp_path):
    root = Root(tmp_path / "nothing")
    assert {check(root).status for check in (check_system, check_memory, check_clock)} == {"ok"}
    assert "unknown whether synchronised" in check_clock(root).found


def test_little_memory_is_warned_of(tmp_path):
    check = check_memory(board(tmp_path, {"proc/meminfo": "MemTotal: 440000 kB\nMemAvailable: 90000 kB\n"}))
    assert (check.status, check.found) == ("warning", "0.5 GB, 0.1 GB of it free")
    assert "end what else runs" in check.advice


def test_little_disk_room_is_warned_of_and_so_is_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    assert check_disk(tmp_path).status == "ok"
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0.4e9))
    check = check_disk(tmp_path)
    assert (check.status, check.found) == ("warning", f"0.4 GB free in {tmp_path}")
    assert "make room" in check.advice
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "may not be written" in check_disk(tmp_path).found


def test_a_clock_before_the_release_is_wrong_whatever_the_system_says(tmp_path):
    check = check_clock(board(tmp_path, PI4), seconds(RELEASE_YEAR - 1))
    assert (check.status, check.found) == ("warning", f"{RELEASE_YEAR - 1}-03-01 00:00 UTC, which is wrong")
    assert "TLS certificates are not valid" in check.advice
    assert datetime.now(timezone.utc).year >= RELEASE_YEAR


@pytest.mark.parametrize(
    ("files", "status", "found"),
    [
        ({TIMEDATECTL: "NTPSynchronized=yes\n"}, "ok", ", synchronised"),
        ({"run/systemd/timesync/synchronized": ""}, "ok", ", synchronised"),
        ({TIMEDATECTL: "NTPSynchronized=no\n"}, "warning", ", not synchronised"),
    ],
)
def test_a_clock_is_synchronised_if_systemd_says_so(tmp_path, files, status, found):
    check = check_clock(board(tmp_path, files), seconds(RELEASE_YEAR))
    assert (check.status, check.found) == (status, f"{RELEASE_YEAR}-03-01 00:00 UTC{found}")
    assert ("set-ntp" in check.advice) == (status == "warning")


@pytest.mark.parametrize(
    ("running", "status"), [((3, 9, 2), "failed"), ((3, 10, 0), "ok"), ((3, 13, 9), "ok"), ((3, 14, 0), "warning")]
)
def test_python_is_one_that_cutlayer_is_made_for(running, status):
    check = check_python(running)
    assert check.status == status
    assert ("3.10 to 3.13" in check.advice) == (status != "ok")


def test_an_engine_without_its_runtime_names_the_extra(monkeypatch):
    for runtime in ENGINES["tflite"].runtimes:
        monkeypatch.setitem(sys.modules, runtime, None)
    onnx, tflite = check_engines()
    assert (onnx.what, onnx.status) == ("engine onnx", "ok")
    assert re.fullmatch(r"onnxruntime \d[\d.]+", onnx.found)
    assert tflite.status == "absent"
    assert tflite.found == "lacks ai-edge-litert or tflite-runtime"
    assert "cutlayer[device-tflite]" in tflite.advice


def test_a_command_that_lacks_packages_names_them_and_the_extra(monkeypatch):
    for module in ("torch", "matplotlib", "yaml"):
        monkeypatch.setitem(sys.modules, module, None)
    checks = {check.what: check for check in check_packages()}
    assert checks["serve"].status == "absent"
    assert "torch" in checks["serve"].found
    assert "matplotlib" in checks["serve"].found
    assert checks["serve"].advice == "PyTorch for this machine (docs/install.md), then pip install 'cutlayer[server]'"
    assert "pyyaml" in checks["flash"].found
    assert re.search(r"cutlayer [\d.]+, numpy \d", checks["packages"].found)
    assert "torch" not in checks["packages"].found


def test_what_everything_needs_is_a_failure(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert {check.what: check.status for check in check_packages()}["packages"] == "failed"


def test_the_packages_of_a_command_are_those_of_its_extra():
    pyproject = msgspec.toml.decode((Path(__file__).parents[2] / "pyproject.toml").read_bytes())
    extras = pyproject["project"]["optional-dependencies"]
    for use in USES[:-1]:  # the demo's extra holds others
        brought = {re.split(r"[<>=;\[]", each)[0].strip().lower() for each in extras[use.extra]}
        runtimes = set() if use.command.startswith("export") else {"onnxruntime"}
        assert set(map(distribution_of, use.modules)) - {"torch"} == brought - runtimes, use.command


def test_a_broker_that_is_there_answers(broker):
    check = check_broker(BrokerAddress("127.0.0.1", broker.port, named=True))
    assert check.status == "ok"
    assert re.fullmatch(rf"127\.0\.0\.1:{broker.port} answers, in \d+ ms", check.found)


def test_a_broker_is_missed_only_if_the_user_named_it(free_port, monkeypatch):
    monkeypatch.setattr("cutlayer_profiles.checks.broker._NAMED_S", 0.0)
    here, named = (check_broker(BrokerAddress("127.0.0.1", free_port, named=named)) for named in (False, True))
    assert (here.status, here.found) == ("absent", f"none at 127.0.0.1:{free_port}")
    assert "--broker HOST" in here.advice
    assert named.status == "failed"
    assert f"no MQTT broker answers at 127.0.0.1:{free_port}" in named.found
    assert f"open port {free_port}" in named.advice


def test_which_broker_is_tried(tmp_path):
    trial = tmp_path / "trial.toml"
    text = resources.files("cutlayer.demo").joinpath("trial.toml").read_text("utf-8")
    trial.write_text(text.replace('host = "127.0.0.1"\nport = 1883', 'host = "lab"\nport = 8883\ntls = "certs/server"'))
    assert broker_to_try("", None, None) == BrokerAddress("127.0.0.1", 1883, None, named=False)
    assert broker_to_try("", trial, None) == BrokerAddress("lab", 8883, tmp_path / "certs" / "server", named=True)
    assert broker_to_try("pi:1884", trial, None) == BrokerAddress("pi", 1884, None, named=True)
    assert broker_to_try("pi", None, tmp_path) == BrokerAddress("pi", 8883, tmp_path, named=True)
    with pytest.raises(UserError, match=r"--broker: found 'pi:x', allowed: HOST or HOST:PORT"):
        broker_to_try("pi:x", None, None)
    with pytest.raises(UserError, match=r"has no ca\.crt"):
        check_broker(BrokerAddress("pi", 8883, tmp_path))


def test_no_check_imports_an_engine_or_torch():
    program = "import sys; from pathlib import Path\nfrom cutlayer_profiles.checks import *\n"
    program += "from cutlayer_profiles.meters import Root\ncheck_machine(Root(), BrokerAddress(), Path.cwd())\n"
    program += "print({'torch', 'onnx', 'onnxruntime', 'ai_edge_litert', 'matplotlib'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "set()\n"
    )


def test_as_a_user_a_named_broker_that_is_missing_is_the_only_failure(broker, free_port, tmp_path):
    def doctor(port):
        command = [sys.executable, "-m", "cutlayer_device", "doctor", "--json", "--broker", f"127.0.0.1:{port}"]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    there, missing = doctor(broker.port), doctor(free_port)
    assert there.returncode == 0, there.stderr
    checks = {check["what"]: check for check in json.loads(there.stdout)["this_machine"]}
    assert checks["broker"]["status"] == "ok"
    assert checks["disk"]["found"].endswith(f"free in {tmp_path}")
    assert missing.returncode == 1
    assert missing.stderr == "cutlayer: doctor: no trial can run from here before this is mended: broker\n"
    assert json.loads(missing.stdout)["meters"]
