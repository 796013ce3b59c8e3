"""Programs on an emulated board, and a trial of one."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from cutlayer_core.record.events import EpochDone
from cutlayer_core.record.record import read_run

STEPS = Path(__file__).parent / "steps.py"


class Board:
    """A root with Python, and the packages that its programs have beside those of the root.

    Args:
        emulator: of the processor's kind.
        root: see `arm.root`.
        python: the interpreter's name.
        site: a folder of packages.
        libraries: folders of libraries, in which a real system has links.
    """

    def __init__(self, emulator, root, python, site, libraries=()):
        self.emulator, self.root, self.python, self.site, self.libraries = emulator, root, python, site, libraries

    def command(self, processor, *words):
        # -L has absolute paths mean those of the root where it has them, hence also /proc/cpuinfo.
        libraries = ":".join(map(str, self.libraries))
        settings = {"PYTHONPATH": self.site, "PYTHONDONTWRITEBYTECODE": "1", "LD_LIBRARY_PATH": libraries}
        shown = [word for key, value in settings.items() for word in ("-E", f"{key}={value}")]
        interpreter = self.root / "usr" / "bin" / self.python
        command = [self.emulator, "-cpu", processor, "-L", self.root, *shown, interpreter, "-s", *words]
        return list(map(str, command))

    def run(self, processor, *words):
        done = subprocess.run(self.command(processor, *words), capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"status {done.returncode} (132 is an unknown instruction): {done.stderr}"
        return done.stdout

    def assert_trains_as_here(self, processor, bundle, samples, folder):
        """Three steps, each within the certificate's tolerance of this machine's."""
        self.run(processor, STEPS, bundle, samples, folder / "arm.npz")
        subprocess.run([sys.executable, str(STEPS), bundle, samples, folder / "here.npz"], check=True)
        arm, here = np.load(folder / "arm.npz"), np.load(folder / "here.npz")
        assert set(arm.files) == set(here.files)
        for name in here.files:
            assert np.abs(arm[name] - here[name]).max() <= 1e-4 * max(np.abs(here[name]).max(), 1e-3), name


def trial_with(command, digits, broker, folder, *, ends):
    """A trial of two epochs of a board, which ``command`` starts, and one here, through a real broker.

    Returns the board's exit status. Unless it ``ends`` with the trial, it gets SIGTERM then.
    """
    kept = [
        line
        for line in (digits / "trial.toml").read_text().splitlines()
        if not line.startswith(("epochs", "target_accuracy", "patience_s"))
    ]
    text = "\n".join(["epochs = 2", "patience_s = 60", *kept])
    (folder / "trial.toml").write_text(text.replace('test = "test.npz"', f'test = "{digits / "test.npz"}"'))
    own = [sys.executable, "-m", "cutlayer"]
    to = ["--broker", f"{broker.host}:{broker.port}"]
    serve = [*own, "serve", str(folder / "trial.toml"), *to, "--run-dir", str(folder / "run")]
    other = [*own, "device", "run", "--bundle", str(digits / "client.bundle"), *to]
    other += ["--data", str(digits / "board-2.npz"), "--name", "board-2", "--state", str(folder / "state-2")]
    with (folder / "log").open("w") as log:
        devices = [subprocess.Popen(words, stderr=log) for words in (command, other)]
        try:
            done = subprocess.run(serve, capture_output=True, text=True, check=False, timeout=200)
            for device in devices if ends else devices[1:]:
                device.wait(timeout=60)
        finally:
            for device in devices:
                device.terminate()
            statuses = [device.wait(timeout=20) for device in devices]
    assert done.returncode == 0, done.stderr + (folder / "log").read_text()
    assert statuses[1] == 0
    epochs = read_run(folder / "run").all(EpochDone)
    assert len(epochs) == 2
    assert epochs[1].test_accuracy > 0.5
    return statuses[0]
