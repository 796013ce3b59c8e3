"""Images of SD cards, as small as they can be: a partition table, a FAT partition with files, an ext4 one."""

import os
import struct
import subprocess
import tarfile
from pathlib import Path

from cutlayer_core.bundles.release import read_release
from needs import need

START, SECTORS = 8192, 131072
TOOLS = "/usr/sbin:/sbin:" + os.environ["PATH"]


def make_image(path, files):
    """An image whose boot partition has these files."""
    need("mcopy", "/usr/sbin/mkfs.vfat")
    path = Path(path)
    entries = [(0x0C, START, SECTORS), (0x83, START + SECTORS, 16384)]
    table = bytearray(512)
    for number, (kind, start, sectors) in enumerate(entries):
        table[446 + 16 * number : 462 + 16 * number] = struct.pack(
            "<BBBBBBBBII", 0, 0, 0, 0, kind, 0, 0, 0, start, sectors
        )
    table[510:] = b"\x55\xaa"
    with path.open("wb") as file:
        file.write(table)
        file.truncate((START + SECTORS + 16384) * 512)
    run("mkfs.vfat", "-F", "32", "-s", "1", "-n", "bootfs", f"--offset={START}", path, SECTORS // 2)
    run("mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-E", f"offset={(START + SECTORS) * 512}", path, "8192k")
    for name, content in files.items():
        run("mcopy", "-i", f"{path}@@{START * 512}", "-", f"::{name}", content=content.encode())
    return path


def run(*words, content=b""):
    environment = {**os.environ, "PATH": TOOLS, "MTOOLS_SKIP_CHECK": "1"}
    subprocess.run([*map(str, words)], check=True, input=content, capture_output=True, env=environment)


def pack(folder, path):
    """A release's folder as `flash build` packs it, near enough."""
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, f"cutlayer-{read_release(folder).release}")
    return path
