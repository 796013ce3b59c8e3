"""What a board says of itself decides whether a release is sent; and a real sshd, a full disk, and a line that is cut."""

import pytest

from cutlayer_core.bundles.release import read_release
from cutlayer_flash.ssh import problems_of
from device.releases import make_release

PI = {
    "machine": "aarch64", "bits": "64", "glibc": "2.36", "model": "Raspberry Pi 4 Model B Rev 1.5", "python": "/usr/bin/python3.11",
    "free_kb": "900000", "home_kb": "900000", "now": "1000000", "user": "1000", "sudo": "yes", "systemctl": "/bin/systemctl",
}  # fmt: skip


@pytest.fixture
def release(tmp_path):
    import msgspec

    found = read_release(make_release(tmp_path, "pi", machine="aarch64", python="3.11"))
    return msgspec.structs.replace(found, board="pi4", glibc="2.36", bytes=170_000_000)


def test_a_board_that_fits_has_no_problems(release):
    assert problems_of(PI, release, 1_000_010.0) == ([], [])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"machine": "armv7l", "bits": "32"}, "install the 64-bit system"),
        ({"bits": "32"}, "it is aarch64 with 32 bits"),
        ({"python": ""}, "it has no /usr/bin/python3.11"),
        ({"glibc": "2.31"}, "its glibc is 2.31, the release needs 2.36"),
        ({"glibc": ""}, "its glibc is none"),
        ({"free_kb": "100000"}, "it has 102 MB free, needed are 374 MB"),
        ({"home_kb": ""}, "it has 0 MB free"),
        ({"systemctl": ""}, "it has no systemd"),
    ],
)
def test_what_stands_in_the_way_is_said_with_the_mend(release, changes, why):
    problems, _ = problems_of({**PI, **changes}, release, 1_000_000.0)
    assert len(problems) == 1
    assert why in problems[0]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"model": "Raspberry Pi 5 Model B"},
            "it calls itself 'Raspberry Pi 5 Model B', the release is for Raspberry Pi 4",
        ),
        ({"now": "0"}, "its clock is wrong"),
        ({"current": "0123456789ab"}, "it runs release 0123456789ab"),
    ],
)
def test_what_is_odd_is_no_obstacle(release, changes, why):
    problems, notes = problems_of({**PI, **changes}, release, 1_000_000.0)
    assert problems == []
    assert why in notes[0]
