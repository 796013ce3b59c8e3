"""The system's programs that tests start. `python tests/tools.py` installs those that are missing, where that is allowed.

With `slow`, also those of the slow tests. Elsewhere tests are passed over, and say so (`needs.py`).
"""

import os
import shutil
import subprocess
import sys
from typing import NamedTuple


class Tool(NamedTuple):
    """A program, by its command or the file that it is, and its package in Debian."""

    name: str
    package: str
    purpose: str
    slow: bool = False

    @property
    def is_there(self):
        return shutil.which(self.name) is not None


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("mosquitto", "mosquitto", "the broker"),
        Tool("chromium", "chromium", "shows reports"),
        Tool("systemd-analyze", "systemd", "reads a board's unit"),
        Tool("cloud-init", "cloud-init", "reads what a board is set up with"),
        Tool("shellcheck", "shellcheck", "reads shell scripts"),
        Tool("mcopy", "mtools", "reads the image of an SD card"),
        Tool("/usr/sbin/mkfs.vfat", "dosfstools", "makes the image of an SD card"),
        Tool("/usr/sbin/sshd", "openssh-server", "a board that is reached by ssh", slow=True),
        Tool("/usr/bin/python3.11", "python3", "a board's own Python", slow=True),
        Tool("apt-get", "apt", "packages of an emulated board", slow=True),
        Tool("qemu-aarch64-static", "qemu-user-static", "an emulated board", slow=True),
        Tool("qemu-arm-static", "qemu-user-static", "an emulated board of 32 bits", slow=True),
        Tool("arm-linux-gnueabihf-gcc", "gcc-arm-linux-gnueabihf", "compiles for one", slow=True),
    )
}


def missing_of(names):
    """Those of these tools that this machine lacks."""
    return [name for name in names if not TOOLS[name].is_there]


def install_command(names):
    """The words that install these tools."""
    packages = sorted({TOOLS[name].package for name in names})
    return [*([] if os.geteuid() == 0 else ["sudo"]), "apt-get", "install", "--yes", *packages]


def may_install():
    """Whether packages can be installed here without asking anybody."""
    if shutil.which("apt-get") is None:
        return False
    return os.geteuid() == 0 or subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0


def install(names):
    """Install these tools' packages. Whether apt-get could; it says itself why not."""
    print(f"installing what tests start: {' '.join(names)}", flush=True)
    command = install_command(names)
    update = [*command[: command.index("install")], "update", "--quiet=2"]
    quietly = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return all(
        subprocess.run(words, env=quietly, stdout=subprocess.DEVNULL, check=False).returncode == 0
        for words in (update, command)
    )


def main(words):
    names = missing_of(name for name, tool in TOOLS.items() if "slow" in words or not tool.slow)
    if names and not (may_install() and install(names)):
        print(f"not installed: {', '.join(names)}. To run their tests too: {' '.join(install_command(names))}")
        return os.environ.get("CI") == "true"
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
