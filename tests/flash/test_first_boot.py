"""First-boot files by the word of those who read them: cloud-init, a shell, mtools, and a card made for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
import yaml

from cutlayer_core.bundles.release import read_release
from cutlayer_core.errors import UserError
from cutlayer_flash.archive import Archive
from cutlayer_flash.boot import ImageBoot, MountedBoot, first_boot_of
from cutlayer_flash.first_boot import files_for, write_first_boot
from cutlayer_flash.setup import Setup, Wifi
from device.releases import make_release
from flash.card import make_image

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHN2dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHQ= ops"
PASSPHRASE = "correct horse battery"
CMDLINE = (
    "console=serial0,115200 root=PARTUUID=57c84f67-02 rootwait quiet init=/usr/lib/raspberrypi-sys-mods/firstboot\n"
)
CONFIG = "# For more options\ndtparam=audio=on\n"
SETUP = Setup("split-07", "cutlayer", KEY, Wifi.of('La"b: né;t', PASSPHRASE, "DE"))
KINDS = {
    "cloud-init": {"user-data": b"#cloud-config\n", "meta-data": b"", "network-config": b""},
    "rpi-preseed": {"rpi-preseed.toml": b""},
    "firstrun": {},
}


@pytest.fixture
def archive(tmp_path):
    folder = make_release(tmp_path, "card", machine="aarch64", python="3.11")
    path = tmp_path / "board-1.tar.gz"
    path.write_bytes(b"a release")
    from cutlayer_core.bundles.release import hash_of

    return Archive(path, read_release(folder), hash_of(path))


def boot_folder(folder, kind):
    folder.mkdir()
    for name, content in {"cmdline.txt": CMDLINE.encode(), "config.txt": CONFIG.encode(), **KINDS[kind]}.items():
        (folder / name).write_bytes(content)
    return folder


def test_the_key_of_a_wifi_is_wpas_own():
    """As wpa_passphrase(8) prints it, and the test vector of IEEE 802.11i, H.4.3."""
    assert Wifi.of("IEEE", "password", "DE").psk == "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"
    assert Wifi.of("IEEE", "F" * 64, "DE").psk == "f" * 64


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_shows_what_its_system_obeys_and_gets_that(kind, archive, tmp_path):
    folder = boot_folder(tmp_path / "bootfs", kind)
    boot = MountedBoot(folder)
    assert first_boot_of(boot) == kind
    names = write_first_boot(boot, kind, SETUP, archive)
    assert (folder / "cutlayer" / "release.tar.gz").read_bytes() == b"a release"
    assert all((folder / name).is_file() for name in names)
    everything = "".join((folder / name).read_text() for name in names if not name.endswith(".gz"))
    assert PASSPHRASE not in everything
    assert "dtparam=i2c_arm=on" in (folder / "config.txt").read_text()
    cmdline = (folder / "cmdline.txt").read_text()
    assert cmdline.startswith(CMDLINE.strip())
    assert cmdline.count("\n") == 1
    once = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write_first_boot(boot, kind, SETUP, archive)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == once, "twice is as once"


@pytest.mark.needs("cloud-init")
def test_cloud_init_knows_every_key(archive, tmp_path):
    files = files_for("cloud-init", SETUP, archive, CMDLINE, CONFIG)
    user_data = yaml.safe_load(files["user-data"])
    assert user_data["user"]["ssh_authorized_keys"] == [KEY]
    network = yaml.safe_load(files["network-config"])["network"]["wifis"]["wlan0"]
    assert list(network["access-points"]) == [SETUP.wifi.ssid], "whatever letters it has"
    assert network["access-points"][SETUP.wifi.ssid] == {"password": SETUP.wifi.psk}
    assert "ds=nocloud;i=cutlayer-" in files["cmdline.txt"], "so that a later boot does not read the files again"
    path = tmp_path / "user-data"
    path.write_text(files["user-data"])
    done = subprocess.run(
        ["cloud-init", "schema", "--config-file", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    path.write_text(files["user-data"].replace("ssh_pwauth: false", "ssh_pwauth: [1]"))
    done = subprocess.run(
        ["cloud-init", "schema", "--config-file", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0, "it does look"


def test_preseed_is_toml_with_the_keys_of_its_system(archive):
    found = tomllib.loads(files_for("rpi-preseed", SETUP, archive, CMDLINE, CONFIG)["rpi-preseed.toml"])
    assert found["config_version"] == "1.0"
    assert found["ssh"]["authorized_keys"] == [KEY]
    assert found["wlan"]["ssid"] == SETUP.wifi.ssid


@pytest.mark.needs("shellcheck")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wifi", [SETUP.wifi, None])
def test_the_script_is_one_that_shellcheck_likes(kind, wifi, archive, tmp_path):
    files = files_for(kind, SETUP._replace(wifi=wifi), archive, CMDLINE, CONFIG)
    path = tmp_path / "first-boot.sh"
    path.write_text(files["cutlayer/first-boot.sh"])
    done = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"hostname": "Split_7"}, "--hostname: found 'Split_7'"),
        ({"user": "root me"}, "--user: found 'root me'"),
        ({"ssh_key": "-----BEGIN OPENSSH PRIVATE KEY-----"}, "--ssh-key: is no public key"),
        ({"ssh_key": KEY + "\nssh-rsa AAAA"}, "--ssh-key: is no public key"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(changes, why, archive, tmp_path):
    folder = boot_folder(tmp_path / "bootfs", "firstrun")
    with pytest.raises(UserError, match=why):
        write_first_boot(MountedBoot(folder), "firstrun", SETUP._replace(**changes), archive)
    assert sorted(path.name for path in folder.iterdir()) == ["cmdline.txt", "config.txt"]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (("net", "short", "DE"), "allowed are 8 to 63"),
        (("net", PASSPHRASE, "Germany"), "--country: found 'Germany'"),
        (("net", PASSPHRASE, ""), "without it the radio stays off"),
        (("n" * 33, PASSPHRASE, "DE"), "1 to 32 bytes"),
    ],
)
def test_a_wifi_that_cannot_be_is_refused_without_its_passphrase(values, why):
    with pytest.raises(UserError, match=why) as error:
        Wifi.of(*values)
    assert PASSPHRASE not in str(error.value)


def test_into_an_image_and_back(archive, tmp_path):
    image = make_image(
        tmp_path / "card.img",
        {"cmdline.txt": CMDLINE, "config.txt": CONFIG, "user-data": "#cloud-config\n", "meta-data": "x: y\n"},
    )
    before = image.stat().st_size
    boot = ImageBoot(image)
    assert first_boot_of(boot) == "cloud-init"
    names = write_first_boot(boot, "cloud-init", SETUP, archive)
    assert image.stat().st_size == before
    again = ImageBoot(image)
    assert all(again.read(name) for name in names)
    assert again.read("cutlayer/release.tar.gz") == b"a release"
    assert again.read("nothing") is None
    partition = tmp_path / "boot.fat"
    partition.write_bytes(image.read_bytes()[8192 * 512 : (8192 + 131072) * 512])
    assert subprocess.run(["fsck.vfat", "-n", str(partition)], capture_output=True, check=False).returncode == 0


def test_what_is_no_card_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    compressed = tmp_path / "a.img.xz"
    compressed.write_bytes(b"\xfd7zXZ" + bytes(600))
    ext4 = make_image(tmp_path / "b.img", {"cmdline.txt": "x"})
    for make, why in (
        (lambda: MountedBoot(tmp_path / "empty"), "has no cmdline.txt"),
        (lambda: MountedBoot(Path("/dev/loop0")), "is a device|has no cmdline.txt"),
        (lambda: ImageBoot(Path("/dev/zero")), "is not a file"),
        (lambda: ImageBoot(compressed), "is it compressed"),
        (lambda: ImageBoot(ext4), "is no Raspberry Pi image"),
    ):
        with pytest.raises(UserError, match=why):
            make()


def test_as_its_user_runs_it(archive, tmp_path, monkeypatch):
    """The passphrase comes from a file, and stands nowhere else."""
    from flash.card import pack

    release = pack(make_release(tmp_path / "r", "mine", machine="aarch64", python="3.11"), tmp_path / "mine.tar.gz")
    folder = boot_folder(tmp_path / "bootfs", "firstrun")
    (tmp_path / "key.pub").write_text(KEY + "\n")
    (tmp_path / "secret").write_text(PASSPHRASE + "\n")
    words = ["flash", "sd", release, "--boot", folder, "--ssh-key", tmp_path / "key.pub", "--wifi", "Lab"]
    command = [
        sys.executable,
        "-m",
        "cutlayer",
        *map(str, words),
        "--wifi-passphrase",
        str(tmp_path / "secret"),
        "--country",
        "DE",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    assert "firstrun; wrote cutlayer/release.tar.gz" in done.stdout
    assert "ssh cutlayer@board-1.local" in done.stdout
    assert all(PASSPHRASE not in each.read_text(errors="replace") for each in folder.rglob("*") if each.is_file())
    assert PASSPHRASE not in done.stdout + done.stderr
    both = subprocess.run([*command, "--image", "x.img"], capture_output=True, text=True, check=False)
    assert (both.returncode, "give --boot, or --image" in both.stderr) == (2, True)
