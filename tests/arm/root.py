"""A Debian for ARM in a folder: packages fetched by this machine's apt and unpacked, nothing of them run, no root needed.

A whole debootstrap runs every package's scripts under emulation, for minutes; Python needs none of them.
"""

import fcntl
import shutil
import subprocess
from pathlib import Path

PACKAGES = (
    *("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1", "ca-certificates"),
    *("dash", "bash", "coreutils", "sed", "grep", "tar", "gzip", "libc-bin", "base-passwd", "passwd", "systemd"),
)
"""For Python and its packages; and for a first boot's script."""
ALSO = {"armhf": ("python3-numpy", "python3-pil", "python3-cffi-backend", "libpython3.11-dev")}
"""By architecture: PyPI has none of these for 32-bit ARM, and no msgspec, which is compiled with the last one's headers."""
NOT_NEEDED = ("doc", "man", "locale", "info", "lintian")

# What onnxruntime reads of the processor; without it, it would read that of this machine, and die.
CPUINFO = """\
processor\t: {number}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
APT = """\
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Debug::NoLocking "true";
Dir::Etc "{apt}/etc";
Dir::Etc::SourceList "{apt}/etc/sources.list";
Dir::Etc::SourceParts "-";
Dir::State "{apt}/state";
Dir::State::status "{apt}/status";
Dir::Cache "{apt}/cache";
"""


def make_root(folder, suite="bookworm", architecture="arm64"):
    """The root, made if it is not there. Raises `CalledProcessError` if the packages cannot be had.

    Tests that run at the same time wait here for the one that makes it.
    """
    root = Path(folder).resolve() / f"{suite}-{architecture}"
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_name(f"{root.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return made(root, suite, architecture)


def made(root, suite, architecture):
    packages = [*PACKAGES, *ALSO.get(architecture, ())]
    whole = root / "whole"
    if whole.exists() and whole.read_text().split() == packages:
        return root
    shutil.rmtree(root, ignore_errors=True)
    apt = root.with_name(f"{root.name}.apt")
    for name in ("etc", "state/lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    (apt / "apt.conf").write_text(APT.format(apt=apt, architecture=architecture))
    (apt / "etc" / "sources.list").write_text(
        f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror()} {suite} main\n"
    )
    for words in (["update"], ["--yes", "--download-only", "install", *packages]):
        subprocess.run(
            ["apt-get", "-qq", *words], env={"APT_CONFIG": str(apt / "apt.conf"), "PATH": "/usr/bin:/bin"}, check=True
        )
    for name in (
        "bin",
        "sbin",
        "lib",
    ):  # of a system whose /usr is merged; older packages bring what they need themselves
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        unpack(package, root)
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "cpuinfo").write_text("".join(CPUINFO.format(number=number) for number in range(2)))
    for name in ("passwd", "group"):
        shutil.copy(root / "usr" / "share" / "base-passwd" / f"{name}.master", root / "etc" / name)
    if not (root / "bin" / "sh").exists():
        (root / "bin" / "sh").symlink_to("dash")
    cpus = root / "sys" / "devices" / "system" / "cpu"
    cpus.mkdir(parents=True)
    for name in ("present", "possible", "online"):
        (cpus / name).write_text("0-1\n")
    shutil.rmtree(apt)
    whole.write_text("\n".join(packages))
    return root


def mirror():
    """Where this machine has its own packages from."""
    lines = [
        line
        for path in [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
        if path.is_file()
        for line in path.read_text().splitlines()
    ]
    words = [word for line in lines if line.startswith(("deb ", "URIs:")) for word in line.split()]
    return next(word for word in words if word.startswith("http") and word.rstrip("/").endswith("/debian"))


def unpack(package, root):
    names = [f"--exclude=./usr/share/{name}" for name in NOT_NEEDED]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as contents:
        words = ["tar", "-C", str(root), "-xf", "-", "--keep-directory-symlink", "--exclude=./dev", *names]
        subprocess.run(words, stdin=contents.stdout, check=True)
