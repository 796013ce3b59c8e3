"""The very release that goes onto a Raspberry Pi, run by an emulated processor; speed says nothing here, numbers and names do."""

import os
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest

from arm.board import Board, trial_with
from arm.root import make_root
from cutlayer_core.bundles.release import DeviceConfig
from cutlayer_flash.archive import read_archive
from cutlayer_flash.boards import target_of
from cutlayer_flash.building import Contents, build
from needs import need

pytestmark = [pytest.mark.slow, pytest.mark.arm]
EMULATOR = "qemu-aarch64-static"
PROCESSORS = {"cortex-a53": "Raspberry Pi 3, Zero 2 W", "cortex-a72": "Raspberry Pi 4", "cortex-a76": "Raspberry Pi 5"}
RELEASES = [("bookworm", "onnx"), ("trixie", "onnx"), ("bookworm", "xnnpack")]
"""Systems, and the bundles on them."""


class Released(NamedTuple):
    """A board with a release on it."""

    board: Board
    config: Path
    bundle: Path


@pytest.fixture(scope="module", params=RELEASES, ids="-".join)
def released(request, digits, bundles, broker, tmp_path_factory):
    need(EMULATOR, "apt-get")
    system, kind = request.param
    root = make_root(Path(os.environ.get("CUTLAYER_CACHE", "runs/arm")), system)
    target, folder = target_of("pi4", system), tmp_path_factory.mktemp("release")
    config = DeviceConfig(name="board-1", broker=f"{broker.host}:{broker.port}", data="", energy="none", threads=1)
    built = build(target, Contents(config, bundles[kind], data=digits / "board-1.npz"), folder / "board-1.tar.gz")
    assert built.packed_bytes < 150e6
    with tarfile.open(built.path) as archive:
        archive.extractall(folder)
    release = folder / read_archive(built.path).folder
    board = Board(EMULATOR, root, Path(target.system.interpreter).name, release / "site")
    return Released(board, release / "config.toml", bundles[kind])


@pytest.mark.parametrize("processor", PROCESSORS)
def test_it_imports_checks_its_certificate_and_trains_as_here(released, digits, tmp_path, processor):
    board = released.board
    assert "cut at 'stem'" in board.run(processor, "-m", "cutlayer_device", "check", released.config)
    board.assert_trains_as_here(processor, released.bundle, digits / "board-1.npz", tmp_path)


def test_it_takes_part_in_a_trial_of_this_machine(released, digits, broker, tmp_path):
    """As the service that it is, with a server and another board here, through a real broker."""
    words = ["-m", "cutlayer_device", "service", released.config, "--state", tmp_path / "state-1"]
    status = trial_with(released.board.command("cortex-a72", *words), digits, broker, tmp_path, ends=False)
    assert status == 130, "the service waited for the next trial until it was stopped"
