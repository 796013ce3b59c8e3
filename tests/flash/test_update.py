"""Updates over a real broker to a real service, which is started again when it ends, as systemd does."""

import json
import subprocess
import sys
import threading
import time
import zipfile

import pytest

from cutlayer_flash.unit import unit_text


def cutlayer(*words, **more):
    command = [sys.executable, "-m", "cutlayer", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **more)


RESTARTS = "Restart=always" in unit_text(tls=False) and "RestartPreventExitStatus" not in unit_text(tls=False)


class Service(threading.Thread):
    """A device's service, started again whenever it ends."""

    def __init__(self, config, state, log):
        super().__init__(daemon=True)
        words = ["device", "service", str(config), "--state", str(state), "--probation-s", "6"]
        self._command, self._log, self._over = [sys.executable, "-m", "cutlayer", *words], log, False
        self.statuses = []
        self._process = None

    def run(self):
        while not self._over:
            with self._log.open("a") as log, subprocess.Popen(self._command, stderr=log) as process:
                self._process = process
                self.statuses.append(process.wait())
            if not RESTARTS:
                return

    def stop(self):
        self._over = True
        self._process.terminate()
        self.join(timeout=10)


@pytest.fixture
def device(digits, broker, tmp_path):
    """Its service, and what is needed to send it updates."""
    assert cutlayer("flash", "key", tmp_path / "update.key").returncode == 0
    config = {
        "name": "board-1", "broker": f"{broker.host}:{broker.port}", "data": str(digits / "board-1.npz"),
        "bundle": str(digits / "client.bundle"), "energy": "none", "update_key": (tmp_path / "update.key.pub").read_text().strip(),
    }  # fmt: skip
    release = tmp_path / "release"
    release.mkdir()
    (release / "config.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in config.items()))
    service = Service(release / "config.toml", tmp_path / "state", tmp_path / "log")
    service.start()
    yield (
        service,
        lambda *words: cutlayer(
            "flash",
            "update",
            "board-1",
            "--broker",
            f"{broker.host}:{broker.port}",
            "--key",
            tmp_path / "update.key",
            "--wait-s",
            60,
            *words,
        ),
    )
    service.stop()


@pytest.mark.slow
def test_a_device_runs_what_it_was_sent_and_goes_back_from_what_leads_nowhere(device, digits, tmp_path):
    service, update = device
    path = tmp_path / "new.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for each in (digits / "client.bundle").iterdir():
            archive.write(each, each.name)
    done = update("--bundle", path, "--threads", 1)
    assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()
    assert "runs: board-1: cutlayer_cut.zoo.digits:DigitsNet cut at 'stem'" in done.stdout
    assert service.statuses == [130], "it ended by itself, to start anew"
    done = update("--new-broker", "127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "if it does not reach it, it is back here" in done.stdout
    deadline = time.monotonic() + 40
    while len(service.statuses) < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert service.statuses == [130, 130, 130], "once for the update, and once back"
    assert "did not reach its broker within 6 s" in (tmp_path / "log").read_text()
    done = update("--threads", 2)
    assert done.returncode == 0, done.stderr
    done = update("--energy", "require=measured")
    assert done.returncode == 1
    assert (
        "nothing was changed: it does not work here: cutlayer: --energy: require=measured cannot be had here"
        in done.stderr
    )


@pytest.mark.slow
def test_another_key_is_refused_and_changes_nothing(device, tmp_path):
    service, update = device
    (tmp_path / "update.key").rename(tmp_path / "lost.key")
    (tmp_path / "update.key.pub").unlink()
    assert cutlayer("flash", "key", tmp_path / "update.key").returncode == 0
    done = update("--threads", 1)
    assert done.returncode == 1
    assert "refuses the update, and nothing was changed: its signature is not that of the key" in done.stderr
    assert service.statuses == []


def test_mistakes_of_the_sender_are_named(tmp_path, digits):
    assert (tmp_path.stat().st_mode, cutlayer("flash", "key", tmp_path / "k").returncode)[1] == 0
    assert (tmp_path / "k").stat().st_mode & 0o077 == 0
    for words, why in (
        (["--key", tmp_path / "k"], "give --bundle, or what of the configuration is to change"),
        (["--key", tmp_path / "none", "--threads", "1"], "none"),
        (["--key", tmp_path / "k.pub", "--threads", "1"], "--key"),
        (["--key", tmp_path / "k", "--bundle", digits / "client.bundle"], "export it as a .zip"),
    ):
        done = cutlayer("flash", "update", "board-1", "--broker", "127.0.0.1:9", *words)
        assert (done.returncode, why in done.stderr) == (2, True), done.stderr
    again = cutlayer("flash", "key", tmp_path / "k")
    assert (again.returncode, "is there already" in again.stderr) == (2, True)
