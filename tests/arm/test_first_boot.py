"""A card's first boot, as far as it goes without a board: its script, run by an emulated Raspberry Pi's system with the real release."""

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from arm.root import make_root
from cutlayer_core.bundles.release import DeviceConfig
from cutlayer_flash.archive import read_archive
from cutlayer_flash.boards import target_of
from cutlayer_flash.boot import MountedBoot
from cutlayer_flash.building import Contents, build
from cutlayer_flash.first_boot import write_first_boot
from cutlayer_flash.setup import Setup, Wifi
from needs import need

pytestmark = [pytest.mark.slow, pytest.mark.arm]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHN2dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHQ= ops"
CMDLINE = "console=tty1 root=PARTUUID=57c84f67-02 rootwait quiet"
SETUP = Setup("split-07", "ops", KEY, Wifi.of("Lab", "correct horse battery", "DE"))
BINFMT = Path("/proc/sys/fs/binfmt_misc")
# What a board's system has and this root does not; it writes down that it was asked.
ASKED = '#!/bin/sh\necho "$(basename $0) $*" >>/var/log/asked\n'


@contextmanager
def arm_programs_run():
    """The kernel starts programs for ARM with the emulator, also those that they start; needs root."""
    if not (BINFMT / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "none", str(BINFMT)], check=True)
    ours = not (BINFMT / "qemu-aarch64").exists()
    if ours:
        (BINFMT / "register").write_bytes(Path("/usr/lib/binfmt.d/qemu-aarch64.conf").read_bytes().strip())
    try:
        yield
    finally:
        if ours:
            (BINFMT / "qemu-aarch64").write_text("-1")


@pytest.fixture
def card(digits, tmp_path):
    """A root file system with a boot partition that was prepared for it."""
    need("qemu-aarch64-static", "apt-get")
    root = tmp_path / "root"
    shutil.copytree(make_root(Path(os.environ.get("CUTLAYER_CACHE", "runs/arm"))), root, symlinks=True)
    for name in (
        "boot/firmware",
        "tmp",
        "var/tmp",
        "var/log",
        "dev",
        "etc/modules-load.d",
        "etc/sudoers.d",
        "usr/local/bin",
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
    os.mknod(root / "dev" / "null", 0o20666, os.makedev(1, 3))
    (root / "etc" / "hosts").write_text("127.0.0.1\tlocalhost\n127.0.1.1\traspberrypi\n")
    (root / "lib" / "systemd" / "system" / "ssh.service").write_text(
        "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
    )
    for name in ("raspi-config", "rfkill"):
        (root / "usr" / "local" / "bin" / name).write_text(ASKED)
        (root / "usr" / "local" / "bin" / name).chmod(0o755)
    config = DeviceConfig(name="board-1", broker="10.0.0.2", data="", energy="none", threads=1)
    built = build(
        target_of("pi4", "bookworm"),
        Contents(config, digits / "client.bundle", data=digits / "board-1.npz"),
        tmp_path / "r.tar.gz",
    )
    boot = root / "boot" / "firmware"
    (boot / "cmdline.txt").write_text(CMDLINE + "\n")
    (boot / "config.txt").write_text("")
    write_first_boot(MountedBoot(boot), "firstrun", SETUP, read_archive(built.path))
    return root, built.release


def test_the_first_boot_sets_the_board_up_and_leaves_no_secret_where_all_can_read(card):
    root, release = card
    environment = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "QEMU_CPU": "cortex-a72"}
    with arm_programs_run():
        words = ["chroot", str(root), "/bin/sh", "/boot/firmware/cutlayer/first-boot.sh"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=300)
    log = (root / "var" / "log" / "cutlayer-first-boot.log").read_text()
    assert done.returncode == 0, log
    assert "cut at 'stem'" in log, "the release trained a little, on the emulated processor"
    assert (root / "opt/cutlayer/current").readlink() == Path("releases") / release.release
    assert (root / "etc/systemd/system/multi-user.target.wants/cutlayer.service").is_symlink(), (
        "it runs after the reboot"
    )
    assert (root / "etc/hostname").read_text() == "split-07\n"
    assert "127.0.1.1\tsplit-07" in (root / "etc/hosts").read_text()
    keys = root / "home/ops/.ssh/authorized_keys"
    assert (keys.read_text(), keys.stat().st_mode & 0o777) == (KEY + "\n", 0o600)
    wifi = root / "etc/NetworkManager/system-connections/cutlayer.nmconnection"
    assert wifi.stat().st_mode & 0o777 == 0o600
    assert f"psk={SETUP.wifi.psk}" in wifi.read_text()
    assert (root / "etc/modules-load.d/cutlayer-i2c.conf").read_text() == "i2c-dev\n"
    assert "do_wifi_country DE" in (root / "var/log/asked").read_text()
    boot = root / "boot" / "firmware"
    assert sorted(path.name for path in boot.rglob("*")) == ["cmdline.txt", "config.txt"], "nothing of it is left there"
    assert (boot / "cmdline.txt").read_text() == CMDLINE + "\n", "the next boot is an ordinary one"
    assert list((root / "var" / "tmp").iterdir()) == []
