"""What an update may change, and what it takes for a device to run it."""

import base64
import zipfile
from io import BytesIO

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cutlayer_core.bundles.release import DeviceConfig
from cutlayer_core.bundles.update import Changes, Manifest, pack, unpack
from cutlayer_core.errors import MessageError, RemoteError, UserError
from cutlayer_device.service.updates import Updates

KEY = Ed25519PrivateKey.generate()
PUBLIC = base64.b64encode(
    KEY.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
).decode()


@pytest.fixture
def installed(digits):
    return DeviceConfig(
        name="board-1",
        broker="127.0.0.1:9",
        data=str(digits / "board-1.npz"),
        bundle=str(digits / "client.bundle"),
        energy="none",
        update_key=PUBLIC,
    )


@pytest.fixture
def updates(installed, tmp_path):
    return Updates(tmp_path / "updates", installed)


def signed(number=1, device="board-1", bundle=None, key=KEY, **changes):
    content = pack(Manifest(device=device, number=number, changes=Changes(**changes)), bundle)
    return content, key.sign(content)


def test_one_that_works_is_run_from_the_next_start_on(updates, installed, tmp_path):
    assert "cut at 'stem'" in updates.take(*signed(threads=1))
    again = Updates(tmp_path / "updates", installed)
    assert (again.current, again.on_probation) == (1, True)
    assert again.started() == msgspec.structs.replace(installed, threads=1)
    again.confirm()
    assert Updates(tmp_path / "updates", installed).last == "update 1 runs"
    again.take_back("too late")
    assert Updates(tmp_path / "updates", installed).started().threads == 1


def test_a_new_bundle_takes_the_place_of_the_old_one(updates, installed, digits, tmp_path):
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in (digits / "client.bundle").iterdir():
            archive.write(path, path.name)
    updates.take(*signed(bundle=buffer.getvalue()))
    config = Updates(tmp_path / "updates", installed).started()
    assert config.bundle == str(tmp_path / "updates" / "1" / "client.zip")
    proven(updates)
    updates.take(*signed(2, threads=2))
    assert Updates(tmp_path / "updates", installed).started().bundle == installed.bundle, (
        "an update is of what was installed"
    )


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda content, signature: (content, bytes(64)), "its signature is not that of the key"),
        (lambda content, signature: (content[:-1], signature), "its signature is not that of the key"),
        (lambda content, signature: signed(device="board-2"), "it is for board-2, this is board-1"),
        (lambda content, signature: signed(key=Ed25519PrivateKey.generate()), "its signature is not that of the key"),
        (lambda content, signature: signed(bundle=b"no bundle"), "it does not work here: cutlayer: bundle"),
        (lambda content, signature: signed(broker="no address:x"), "it does not work here: cutlayer: --broker"),
        (lambda content, signature: (b"PK", KEY.sign(b"PK")), "an update cannot be read"),
    ],
)
def test_one_that_is_wrong_changes_nothing(updates, installed, tmp_path, spoil, why):
    with pytest.raises(RemoteError, match=why):
        updates.take(*spoil(*signed()))
    again = Updates(tmp_path / "updates", installed)
    assert again.started() == installed
    assert not (tmp_path / "updates").exists() or [path.name for path in (tmp_path / "updates").iterdir()] == []


def proven(updates):
    """As the process that is started with it does once it has reached its broker."""
    updates.started()
    updates.confirm()


def test_an_old_one_cannot_be_sent_again_not_even_to_another_release(updates, installed, tmp_path):
    old = signed(5, threads=1)
    updates.take(*old)
    proven(updates)
    updates.take(*signed(6, threads=2))
    proven(updates)
    for device in (updates, Updates(tmp_path / "another release", installed)):
        for again in (old, signed(6, threads=3)):
            with pytest.raises(RemoteError, match="and 6 was here before: sign it anew"):
                device.take(*again)


def test_only_the_process_that_was_started_with_one_can_say_that_it_works(updates, installed, tmp_path):
    updates.started()
    updates.take(*signed(1, threads=1))
    updates.confirm()
    assert updates.on_probation, "this process runs what came before"
    assert updates.outdated
    with pytest.raises(RemoteError, match="has yet to prove itself"):
        updates.take(*signed(2, threads=2))
    proven(Updates(tmp_path / "updates", installed))
    assert not Updates(tmp_path / "updates", installed).on_probation


def test_one_that_never_proves_itself_is_taken_back_in_the_end(updates, installed, tmp_path):
    updates.take(*signed(1, threads=1))
    proven(updates)
    updates.take(*signed(2, threads=2))
    for _ in range(3):
        assert Updates(tmp_path / "updates", installed).started().threads == 2
    last = Updates(tmp_path / "updates", installed)
    assert last.started().threads == 1, "not what was installed, but what was run before"
    assert "update 2 was taken back: the device did not come up with it" in last.last
    assert not (tmp_path / "updates" / "2").exists()


def test_a_full_disk_refuses_an_update_and_changes_nothing(updates, installed, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cutlayer_device.service.updates.replace_file", full)
    with pytest.raises(RemoteError, match="cannot be kept here"):
        updates.take(*signed())
    assert Updates(tmp_path / "updates", installed).started() == installed


def test_without_a_key_nobody_may(installed, tmp_path):
    closed = Updates(tmp_path / "updates", msgspec.structs.replace(installed, update_key=""))
    assert not closed.accepts
    with pytest.raises(RemoteError, match="takes no updates"):
        closed.take(*signed())
    with pytest.raises(UserError, match="update_key: is no Ed25519 public key"):
        Updates(tmp_path / "updates", msgspec.structs.replace(installed, update_key="abc"))


def test_an_archive_with_anything_else_in_it_is_refused():
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("update.json", "{}")
        archive.writestr("../../etc/passwd", "x")
    for content in (buffer.getvalue(), b"", signed()[0][:40]):
        with pytest.raises(MessageError):
            unpack(content)
