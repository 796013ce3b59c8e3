"""What can be had for a board is said before anything is built."""

import pytest

from cutlayer_core.errors import UserError
from cutlayer_flash.boards import BOARDS, SYSTEMS, target_of
from cutlayer_flash.packages import requirements


def test_every_board_has_a_system_and_every_system_a_board():
    assert {name for board in BOARDS.values() for name in board.systems} == set(SYSTEMS)


@pytest.mark.parametrize(
    ("board", "os", "why"),
    [
        ("pi6", "bookworm", "--board: found 'pi6', allowed: pi3, pi4, pi5, pi-zero2w"),
        ("pi4", "jp6", "--os: found 'jp6', allowed for pi4: bookworm, trixie"),
        ("pi4", "bookworm-32", "no numpy and no msgspec for 32-bit ARM: install the 64-bit system"),
        ("jetson-nano", "jp4", "has Python 3.6, cutlayer needs 3.10: there is no newer JetPack"),
        ("jetson-orin", "jp5", "has Python 3.8, cutlayer needs 3.10: install JetPack 6"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_way_out(board, os, why):
    with pytest.raises(UserError) as error:
        target_of(board, os)
    assert why in str(error.value)


def test_a_target_knows_its_system_and_how_its_board_calls_itself():
    target = target_of("pi4", "bookworm")
    assert target.system.interpreter == "/usr/bin/python3.11"
    assert "Raspberry Pi 4 Model B Rev 1.5".startswith(target.models)


def test_a_board_with_a_tflite_bundle_gets_its_runtime_and_no_other():
    names = [each.split(";")[0].split(">")[0] for each in requirements("device-tflite")]
    assert {"ai-edge-litert", "numpy", "msgspec", "paho-mqtt", "cryptography"} <= set(names)
    assert not {"torch", "onnxruntime", "tflite-runtime", "flatbuffers"} & set(names)


def test_the_packages_are_those_of_the_device_and_markers_are_the_boards_to_decide():
    wanted = requirements()
    names = [each.split(";")[0].split(">")[0] for each in wanted]
    assert {"numpy", "onnxruntime", "msgspec", "paho-mqtt", "cryptography", "pillow", "zstandard"} <= set(names)
    assert not {"torch", "onnx", "matplotlib", "uv"} & set(names)
    assert len(names) == len(set(names))
    assert any("python_version" in each for each in wanted), "tomli is for Python 3.10 only"
    assert next(each for each in wanted if each.startswith("onnxruntime")) == "onnxruntime>=1.22.1", (
        "1.21 dies on a Raspberry Pi 4"
    )
