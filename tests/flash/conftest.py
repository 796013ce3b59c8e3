"""Releases for this machine, built as for a board: packages and all."""

from pathlib import Path
from typing import NamedTuple

import pytest

from cutlayer_core.bundles.release import DeviceConfig
from cutlayer_flash.archive import read_archive
from cutlayer_flash.boards import target_of
from cutlayer_flash.building import Contents, build
from needs import need

INTERPRETER = "/usr/bin/python3.11"


class Releases(NamedTuple):
    """Two that work, and one whose samples are not there."""

    good: Path
    better: Path
    bad: Path


@pytest.fixture(scope="session")
def releases(digits, tmp_path_factory):
    """Of a PC with Debian 12, as this machine has to be."""
    need(INTERPRETER)
    folder, target = tmp_path_factory.mktemp("releases"), target_of("pc", "bookworm-pc")
    config = DeviceConfig(name="board-1", broker="127.0.0.1:9", data="", energy="none")
    samples = digits / "board-1.npz"
    good = build(target, Contents(config, digits / "client.bundle", data=samples), folder / "good.tar.gz")
    locked = _lock_of(good.path)
    more = DeviceConfig(name="board-1", broker="127.0.0.1:9", data="", energy="none", threads=1)
    build(target, Contents(more, digits / "client.bundle", data=samples), folder / "better.tar.gz", locked)
    nowhere = DeviceConfig(name="board-1", broker="127.0.0.1:9", data="/nowhere.npz")
    build(target, Contents(nowhere, digits / "client.bundle"), folder / "bad.tar.gz", locked)
    return Releases(*(folder / f"{name}.tar.gz" for name in Releases._fields))


def _lock_of(path):
    import tarfile

    archive = read_archive(path)
    with tarfile.open(path) as file:
        return file.extractfile(f"{archive.folder}/lock.txt").read().decode()
