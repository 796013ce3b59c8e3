"""Break a trial in every way at random moments, and see that it ends as if nothing had happened, to the last bit.

    python tests/chaos/campaign.py --faults 200 --seed 1

A mosquitto without persistence, a server and two boards, all processes, each started anew when it dies, as systemd
would; the boards reach the broker through links that fall silent and break. The trial is the demo's (handwritten digits,
FP8 both ways). An undisturbed run with the same seeds says what the weights of both halves, and every step and its loss,
have to be.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parent.parent))

from chaos.relay import Relay
from cutlayer.demo import prepare
from cutlayer.lab.broker import mosquitto_conf
from cutlayer_core.record.events import Resumed, Step
from cutlayer_core.record.record import _lines, read_run

DEVICES = ("board-1", "board-2")
EPOCHS, FAULTS_A_TRIAL, MEAN_PAUSE_S, LONGEST_S = 100, 20, 0.8, 240.0


class Service:
    """A process that is started anew when it is killed. Who gives up by itself has failed: nothing here is beyond mending."""

    def __init__(self, command, log):
        self._command, self._log, self._due = [str(each) for each in command], log, 0.0
        self.done, self.process = False, None
        self.tend()

    def tend(self):
        """Start it if it is not there and not over."""
        if self.process is not None and self.process.poll() is not None:
            if self.process.returncode > 0:
                raise SystemExit(f"a process gave up with status {self.process.returncode}: see {self._log}")
            self.done, self.process = self.process.returncode == 0, None
        if self.process is None and not self.done and time.monotonic() >= self._due:
            with self._log.open("ab") as log:
                self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self, away_s=0.0):
        """``kill -9``; started anew after ``away_s``."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process, self._due = None, time.monotonic() + away_s

    def freeze(self, frozen):
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)


class Lab:
    """Broker, server, boards and their links."""

    def __init__(self, inputs, folder, port):
        conf = folder / "mosquitto.conf"
        conf.write_text(mosquitto_conf(port) + "user root\n")
        self.broker = Service(["mosquitto", "-c", conf], folder / "broker.log")
        time.sleep(0.3)
        self.links = {name: Relay("127.0.0.1", port) for name in DEVICES}
        self.devices = {name: Service(self._device(inputs, folder, name), folder / f"{name}.log") for name in DEVICES}
        serve = [sys.executable, "-m", "cutlayer", "serve", inputs / "trial.toml", "--threads", "1"]
        self.server = Service([*serve, "--run-dir", folder / "run", "--resume"], folder / "server.log")

    def _device(self, inputs, folder, name):
        command = [sys.executable, "-m", "cutlayer_device", "run", "--bundle", inputs / "client.bundle", "--name", name]
        command += ["--broker", f"127.0.0.1:{self.links[name].port}", "--data", inputs / f"{name}.npz"]
        return [*command, "--state", folder / "state", "--threads", "1"]

    @property
    def services(self):
        return [self.broker, self.server, *self.devices.values()]

    def tend(self):
        for service in self.services:
            service.tend()

    def wait(self, seconds):
        """Let it run; dead processes come back."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.over:
            self.tend()
            time.sleep(0.02)

    @property
    def over(self):
        return self.server.done

    def close(self):
        for link in self.links.values():
            link.restore()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not all(device.done for device in self.devices.values()):
            self.tend()
            time.sleep(0.02)
        for service in self.services:
            service.kill(away_s=1e9)
        for link in self.links.values():
            link.close()


def kill_device(lab, rng):
    lab.devices[rng.choice(DEVICES)].kill()


def reboot_device(lab, rng):
    lab.devices[rng.choice(DEVICES)].kill(away_s=rng.uniform(0.5, 3))


def kill_server(lab, rng):
    lab.server.kill()


def kill_broker(lab, rng):
    lab.broker.kill(away_s=rng.choice([0, 0, 1]))


def kill_server_and_device(lab, rng):
    kill_device(lab, rng)
    lab.server.kill()


def kill_all(lab, rng):
    for service in lab.services:
        service.kill()


def reset_link(lab, rng):
    lab.links[rng.choice(DEVICES)].reset()


def silence_link(lab, rng):
    """For seconds; now and then for longer than TCP and the broker wait. Then the link goes on, or breaks."""
    link = lab.links[rng.choice(DEVICES)]
    link.silence()
    lab.wait(rng.choice([0.3, 1, 2, 3, 3, 35]))
    if rng.random() < 0.5:
        link.reset()
    link.restore()


def freeze(lab, rng):
    """A process that is stopped in the middle of whatever it did, and goes on later."""
    service = rng.choice([*lab.devices.values(), lab.server])
    service.freeze(frozen=True)
    lab.wait(rng.uniform(0.2, 3))
    service.freeze(frozen=False)


FAULTS = [
    *(kill_device, reboot_device, kill_server, kill_broker, kill_server_and_device, kill_all),
    *(reset_link, silence_link, freeze),
]


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_inputs(folder, port, aggregation):
    prepare(folder)
    path, changes = folder / "trial.toml", {"epochs = 40": f"epochs = {EPOCHS}", "patience_s = 5": "patience_s = 60"}
    changes["port = 1883"] = f"port = {port}"
    text = path.read_text().replace("target_accuracy = 0.97\n", "checkpoint_s = 0.2\n")
    for old, new in {**changes, 'id = "sequential"': f'id = "{aggregation}"'}.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    export = [sys.executable, "-m", "cutlayer", "export", path, "--out", folder / "client.bundle"]
    subprocess.run(export, check=True, capture_output=True)
    return folder


def run_trial(inputs, folder, port, rng, faults):
    """One trial with so many faults; returns their names and the run."""
    folder.mkdir()
    lab, done = Lab(inputs, folder, port), Counter()
    try:
        while done.total() < faults and not lab.over:
            lab.wait(rng.expovariate(1 / MEAN_PAUSE_S))
            if not lab.over:
                fault = rng.choice(FAULTS)
                fault(lab, rng)
                done[fault.__name__] += 1
        lab.wait(LONGEST_S)
        if not lab.over:
            raise SystemExit(f"the trial did not end: see the logs in {folder}")
    finally:
        lab.close()
    lost = [name for name, device in lab.devices.items() if not device.done]
    if lost:
        raise SystemExit(f"{lost} did not end: see the logs in {folder}")
    return done, read_run(folder / "run")


def differences(run, wanted):
    """What two runs differ in; empty if they are the same to the last bit."""
    found, expected = (load_file(each.path / "model.safetensors") for each in (run, wanted))
    names = [name for name in expected if not np.array_equal(found[name], expected[name])]
    steps, all_steps = ([(s.epoch, s.step, s.device, s.loss) for s in each.all(Step)] for each in (run, wanted))
    return names + ([] if steps == all_steps else [f"{len(steps)} steps instead of {len(all_steps)}, or other losses"])


def campaign(folder, faults, seed, report=print):
    """As many trials as the faults need, each compared with the undisturbed one."""
    rng, done, number = random.Random(seed), Counter(), 0
    port = free_port()
    inputs = {name: make_inputs(folder / name, port, name) for name in ("sequential", "splitfed")}
    wanted = {name: run_trial(path, folder / f"{name}-undisturbed", port, rng, 0)[1] for name, path in inputs.items()}
    while done.total() < faults:
        name = list(inputs)[number % 2]
        left = min(FAULTS_A_TRIAL, faults - done.total())
        begun = time.monotonic()
        found, run = run_trial(inputs[name], folder / f"trial-{number}", port, rng, left)
        different = differences(run, wanted[name])
        lines = list(_lines(run.path))
        again = sum(isinstance(line, Step) for line in lines) - run.summary.steps
        resumed = sum(isinstance(line, Resumed) for line in lines)
        report(
            f"{name:10} {found.total():3} faults, went back {resumed:3} times, {again:5} of {run.summary.steps} steps "
            f"done again, {time.monotonic() - begun:4.0f} s: {'DIFFERENT ' + str(different) if different else 'identical'}"
        )
        if different:
            raise SystemExit(f"see {folder / f'trial-{number}'}")
        done += found
        number += 1
    return done


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to leave inputs, logs and runs; default: nowhere")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        done = campaign(folder, options.faults, options.seed, lambda line: print(line, flush=True))
    print(f"\n{done.total()} faults, every trial identical to the undisturbed one")
    for name, count in sorted(done.items()):
        print(f"{count:5} {name}")


if __name__ == "__main__":
    main()
