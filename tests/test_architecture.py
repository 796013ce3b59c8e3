"""The architecture page speaks of the tree as it is."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
PICTURE = (ROOT / "docs" / "architecture.svg").read_text("utf-8")
PACKAGES = {
    "cutlayer": "toolkit",
    "cutlayer_core": "core",
    "cutlayer_cut": "export",
    "cutlayer_device": "device_runtime",
    "cutlayer_export": "export",
    "cutlayer_flash": "device_runtime",
    "cutlayer_profiles": "profiles",
    "cutlayer_server": "server_runtime",
}
WITHOUT_CODE_OF_THEIR_OWN = {"boards", "templates", "zoo"}


def test_every_path_of_the_page_is_there():
    named = re.findall(r"`((?:core|device_runtime|server_runtime|export|profiles|toolkit)/[\w./]+)`", PAGE)
    assert len(named) > 30
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_file_of_the_page_is_there_by_its_name():
    files = {path.name for path in ROOT.glob("*/cutlayer*/**/*.py")}
    assert {Path(name).name for name in re.findall(r"`[\w./]*?(\w+\.py)`", PAGE)} <= files


def test_every_class_that_keeps_something_true_says_so_where_the_page_says():
    for name, file in re.findall(r"^\| `(\w+)` \(`([\w./]+)`\)", PAGE, re.MULTILINE):
        (path,) = [each for each in ROOT.glob("*/cutlayer*/**/*.py") if each.as_posix().endswith("/" + file)]
        assert f"class {name}:" in path.read_text("utf-8"), (name, file)


def test_the_picture_has_every_room():
    drawn = set(re.findall(r'font-size="12" fill="#1c2430" text-anchor="middle">(\w+)<', PICTURE))
    rooms = {
        folder.name
        for package, root in PACKAGES.items()
        for folder in (ROOT / root / package).iterdir()
        if folder.is_dir() and folder.name not in {"__pycache__", *WITHOUT_CODE_OF_THEIR_OWN}
    }
    assert drawn == rooms
    assert all(package in PICTURE for package in PACKAGES)
