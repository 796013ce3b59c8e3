"""A release as it goes onto a board: for every system there is one, equal bytes from equal inputs, secrets for their owner's eyes."""

import json
import re
import subprocess
import sys
import tarfile

import pytest

from cutlayer_core.bundles.release import DeviceConfig, hash_of
from cutlayer_core.errors import UserError
from cutlayer_flash.archive import read_archive
from cutlayer_flash.boards import BOARDS, SYSTEMS, target_of
from cutlayer_flash.building import Contents, build
from cutlayer_flash.packages import lock, requirements
from cutlayer_server.certs import make_certificates
from device.releases import make_release
from flash.card import pack

SUPPORTED = sorted(
    {
        os
        for board in BOARDS.values()
        for os in board.systems
        if SYSTEMS[os].python >= (3, 10) and SYSTEMS[os].machine != "armv7l"
    }
)


@pytest.mark.slow
@pytest.mark.parametrize("os", SUPPORTED)
def test_every_system_has_packages_that_go_together(os):
    locked = lock(requirements(), SYSTEMS[os])
    versions = dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^ ;]+)", locked, re.MULTILINE))
    assert {"numpy", "onnxruntime", "cryptography", "msgspec", "paho-mqtt"} <= set(versions)
    assert not {"torch", "onnx"} & set(versions)
    assert ("tomli" in versions) == (SYSTEMS[os].python < (3, 11)), "markers are evaluated for the board"
    assert locked.count("--hash=sha256:") >= len(versions)
    assert "http" not in locked


@pytest.mark.slow
def test_equal_inputs_give_equal_bytes_and_the_key_is_for_its_owner(digits, tmp_path):
    make_certificates(tmp_path / "certs", ["broker"], ["board-1"], 8883, 10)
    config = DeviceConfig(name="board-1", broker="broker", data="/srv/data", threads=2)
    contents = Contents(config, digits / "client.bundle", tls=tmp_path / "certs" / "board-1")
    target = target_of("pi4", "bookworm")
    one = build(target, contents, tmp_path / "one.tar.gz")
    archive = read_archive(one.path)
    with tarfile.open(one.path) as file:
        modes = {each.name.partition("/")[2]: each.mode for each in file}
        locked = file.extractfile(f"{archive.folder}/lock.txt").read().decode()
        config_text = file.extractfile(f"{archive.folder}/config.toml").read().decode()
        unit = file.extractfile(f"{archive.folder}/cutlayer.service").read().decode()
    two = build(target, contents, tmp_path / "two.tar.gz", locked)
    assert hash_of(one.path) == hash_of(two.path)
    assert one.packed_bytes < 150e6
    assert one.path.stat().st_mode & 0o777 == 0o600
    assert (modes["tls/own.key"], modes["tls"], modes["bin/cutlayer-device"], modes["config.toml"]) == (
        0o600,
        0o700,
        0o755,
        0o644,
    )
    assert 'tls = "tls"' in config_text
    assert 'data = "/srv/data"' in config_text
    assert unit.count("LoadCredential=") == 3
    names = set(modes)
    assert {
        "site/cutlayer_core/errors.py",
        "site/cutlayer_device/service/service.py",
        "site/cutlayer_profiles/boards/pi4.toml",
    } <= names
    assert not [
        name for name in names if "__pycache__" in name or name.startswith(("site/torch/", "site/cutlayer_server"))
    ]


def test_what_is_wrong_is_said_before_anything_is_fetched(digits, tmp_path):
    good = DeviceConfig(name="board-1", broker="broker", data="/srv/data")
    target = target_of("pi4", "bookworm")
    for contents, why in (
        (Contents(good, tmp_path / "none"), "bundle"),
        (Contents(DeviceConfig(name="all", broker="b", data="/d"), digits / "client.bundle"), "--device-id"),
        (Contents(DeviceConfig(name="a", broker="b:x", data="/d"), digits / "client.bundle"), "--broker"),
        (Contents(good, digits / "client.bundle", tls=tmp_path), "has no ca.crt"),
        (Contents(good, digits / "client.bundle", data=tmp_path / "none.npz"), "none.npz: does not exist"),
    ):
        with pytest.raises(UserError, match=why):
            build(target, contents, tmp_path / "out.tar.gz")
    assert not (tmp_path / "out.tar.gz").exists()
    words = [
        "--board",
        "pi4",
        "--os",
        "bookworm",
        "--bundle",
        digits / "client.bundle",
        "--broker",
        "b",
        "--device-id",
        "a",
    ]
    command = [sys.executable, "-m", "cutlayer", "flash", "build", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "give --data, or --data-on-board" in done.stderr) == (2, True)


def test_a_release_is_read_without_unpacking_it_and_half_a_one_is_refused(tmp_path):
    whole = pack(make_release(tmp_path, "one", size=200_000), tmp_path / "one.tar.gz")
    assert read_archive(whole).folder.startswith("cutlayer-")
    half = tmp_path / "half.tar.gz"
    half.write_bytes(whole.read_bytes()[:-100])
    other = tmp_path / "other.tar.gz"
    with tarfile.open(other, "w:gz") as archive:
        archive.add(whole, "something")
    for path in (half, other, tmp_path / "none"):
        with pytest.raises(UserError, match="release of cutlayer"):
            read_archive(path)


def test_how_to_install_by_hand_is_printed(tmp_path):
    path = pack(make_release(tmp_path, "one"), tmp_path / "one.tar.gz")
    command = [sys.executable, "-m", "cutlayer", "flash", "tar", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "sha256sum -c" in done.stdout
    assert "install.py" in done.stdout
    steps = json.loads(subprocess.check_output([*command, "--json"], text=True))
    assert steps["sha256"] == hash_of(path)
