"""Small releases whose program does as it is told: for what happens to releases, whatever is in them."""

import hashlib
import platform
import sys
from pathlib import Path

import msgspec

from cutlayer_core.bundles.release import FORMAT_VERSION, MANIFEST, Release, hash_of
from cutlayer_flash.unit import unit_text

PROGRAM = """\
#!{python}
import os, socket, sys, time
if sys.argv[1] == "check":
    {check}
    print("it works")
    sys.exit(0)
{service}
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
    connection.connect(os.environ["NOTIFY_SOCKET"])
    connection.send(b"READY=1")
print("{name} runs", flush=True)
{after}
time.sleep(60)
"""


def make_release(folder, name, *, check="pass", service="", after="", machine="", python="", size=0):
    """A folder like one that was unpacked; its program's parts are statements of Python."""
    path = Path(folder) / f"cutlayer-{name}"
    (path / "bin").mkdir(parents=True)
    text = PROGRAM.format(python=sys.executable, name=name, check=check, service=service, after=after)
    (path / "bin" / "cutlayer-device").write_text(text)
    (path / "bin" / "cutlayer-device").chmod(0o755)
    (path / "cutlayer.service").write_text(unit_text(tls=False))
    (path / "config.toml").write_text("")
    (path / "ballast").write_bytes(bytes(size))
    files = {str(each.relative_to(path)): hash_of(each) for each in sorted(path.rglob("*")) if each.is_file()}
    release = Release(
        format_version=FORMAT_VERSION,
        release=hashlib.sha256(name.encode()).hexdigest()[:12],
        board="pc",
        system="bookworm-pc",
        machine=machine or platform.machine(),
        python=python or f"{sys.version_info.major}.{sys.version_info.minor}",
        glibc="2.17",
        device="board-1",
        trial="demo",
        files=files,
        bytes=sum(each.stat().st_size for each in path.rglob("*") if each.is_file()),
    )
    (path / MANIFEST).write_bytes(msgspec.json.encode(release))
    return path
