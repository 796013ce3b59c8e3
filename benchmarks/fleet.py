"""A server under load: simulated devices on a real mosquitto, beside two bare paho clients in the same run.

    python benchmarks/fleet.py [--devices 10 100 1000] [--seconds 8] [--rounds 3] [--json]

Four questions. How many steps a second does a server take when computing costs nothing, as a share of the round trips
that two bare paho clients make of the same payloads? How long is a device's round trip, and what does one more device
cost the server in memory? How long takes a round trip of 200 kB beside a bare one? How much of the server's time is left
to the model, beside a bare loop over the same batches? Contenders take turns; ratios are of turns side by side.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median

import msgspec
import numpy as np

from bare import bare_devices, bare_server
from cutlayer.lab.broker import start_broker
from cutlayer_core.codecs import Codecs, Fp8, Raw
from cutlayer_core.trial.aggregation import SplitFed
from cutlayer_core.trial.optimizers import Sgd
from cutlayer_core.trial.recipe import Model
from cutlayer_core.trial.trial import Broker, Data, Optimizers, Trial
from cutlayer_core.wire import topics

STEPS = 10
KB = 1024


def trial_of(name, port, devices, samples):
    """The digits, whose smashed data are 1 kB a sample as float32; or VGG11, for the server that computes."""
    sgd = Sgd(learning_rate=0.001)
    digits = Model(factory="cutlayer_cut.zoo.digits:DigitsNet", cut="stem", input_shape=(1, 8, 8))
    vgg = Model(factory="cutlayer_cut.zoo.vgg:VGG11", cut="features.5", input_shape=(3, 32, 32))
    computes = name.startswith("vgg")
    return Trial(
        name=name,
        devices=tuple(f"d{number}" for number in range(devices)),
        epochs=1,
        model=vgg if computes else digits,
        data=Data(test="none", batch_size=samples),
        optimizer=Optimizers(client=sgd, server=sgd),
        codec=Codecs(up=Fp8(), down=Fp8()) if computes else Codecs(up=Raw(), down=Raw()),
        aggregation=SplitFed(),
        broker=Broker(port=port),
        checkpoint_s=1e6,
    )


class NoModel:
    """Computes nothing: zeros for a gradient."""

    def __init__(self, shape):
        self._gradient = np.zeros(shape, np.float32)

    def of(self, device):
        return self

    def step(self, parts, sharing):
        from cutlayer_server.model.server_model import StepResult, Update

        return Update([StepResult(0.0, 0, self._gradient)], None)

    def state(self):
        return {}


def load(trial):
    """The client of a trial, and the server-side model or none."""
    import torch

    from cutlayer_cut import client_of, cut_model
    from cutlayer_server.model.server_model import client_weights
    from cutlayer_server.model.server_models import ServerModels

    torch.set_num_threads(1)
    halves = cut_model(trial.recipe)
    client, _ = client_of(trial.recipe, halves)
    weights = client_weights(halves.client, [*client.params, *client.buffers])
    shape = (trial.data.batch_size, *client.smashed.shape)
    model = ServerModels(halves.server, trial.optimizer.server) if trial.name.startswith("vgg") else NoModel(shape)
    return client, weights, model, shape


def serve(trial, seconds):
    """The real fleet and trainer; rounds until the time is over. Returns steps, seconds and peak memory in MB."""
    from cutlayer_core.record.events import Started
    from cutlayer_core.record.record import Record
    from cutlayer_core.wire.presence import will_of
    from cutlayer_server.fleet.connection import connect
    from cutlayer_server.fleet.fleet import Fleet
    from cutlayer_server.training.checkpoints import Checkpoints
    from cutlayer_server.training.coordinator import birth_of
    from cutlayer_server.training.epoch import ClientWeights, EpochProgress
    from cutlayer_server.training.trainer import Trainer

    client, weights, model, _ = load(trial)
    birth = birth_of(trial)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(connect(trial, will_of(topics.control(trial.name), birth))) as transport,
    ):
        fleet = Fleet(trial, client.fingerprint, birth, transport, {})
        boards = fleet.gather(lambda missing: None)
        record = Record(Path(folder) / "run", "")
        record.write(Started(time_s=0.0, devices={name: each.samples for name, each in boards.items()}))
        trainer = Trainer(trial, client, fleet, model, record, Checkpoints(Path(folder) / "checkpoints"), 1)
        fleet.assign(1, {})
        steps, began, number = 0, 0.0, 0
        while not began or time.perf_counter() < began + seconds:
            # Anew, so that they travel, as they do where they are averaged.
            state = EpochProgress(number, ClientWeights(dict(weights)))
            trainer.start(state)
            trainer.train()
            if number:
                steps += state.steps.total()
            else:
                began = time.perf_counter()  # the first round warms up
            number += 1
        spent = time.perf_counter() - began
        fleet.dismiss("enough", ok=True)
        record.close("fleet")
    return {"steps": steps, "seconds": spent, "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def simulate(trial):
    """The devices of a trial. Returns quantiles of their round trips in milliseconds."""
    from simulated import Fleet

    client, _, _, shape = load(trial)
    fleet = Fleet(trial.broker.port, trial.name, trial.devices, client.fingerprint, trial.codec.up, shape, STEPS)
    print("ready", flush=True)
    trips = np.array(fleet.run()) * 1e3
    return {"p50_ms": float(np.quantile(trips, 0.5)), "p99_ms": float(np.quantile(trips, 0.99))}


def bare_loop(trial, seconds):
    """The same batches without a network. Returns steps and seconds."""
    from cutlayer_server.model.server_model import Part

    _, _, models, shape = load(trial)
    z = np.abs(np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    model, batch = models.of("d0"), [Part("d0", z, np.zeros(shape[0], np.uint16), 1.0)]
    model.step(batch)
    steps, began = 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        model.step(batch)
        steps += 1
    return {"steps": steps, "seconds": time.perf_counter() - began}


def part(role, **settings):
    """Start one role in a process of its own."""
    command = [sys.executable, __file__, "--role", json.dumps({"role": role, **settings})]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(process):
    """What a role returned: its last line."""
    out, _ = process.communicate(timeout=600)
    if process.returncode:
        raise SystemExit(f"{process.args}: ended with status {process.returncode}")
    return json.loads(out.splitlines()[-1])


def play(role, name="", port=0, devices=0, samples=0, seconds=0.0, payload_bytes=0, in_flight=0):
    """One role, in the process that `part` started."""
    trial = trial_of(name, port, devices, samples) if name else None
    match role:
        case "serve":
            return serve(trial, seconds)
        case "simulate":
            return simulate(trial)
        case "bare server":
            return bare_server(port)
        case "bare devices":
            return bare_devices(port, payload_bytes, in_flight, seconds)
        case "bare loop":
            return bare_loop(trial, seconds)


def ours(port, name, devices, samples, seconds):
    """A server and its devices; both results in one."""
    settings = {"name": name, "port": port, "devices": devices, "samples": samples}
    simulated = part("simulate", **settings)
    simulated.stdout.readline()
    served = result(part("serve", seconds=seconds, **settings))
    return served | result(simulated)


def bare(port, payload_bytes, in_flight, seconds):
    """Two bare clients."""
    server = part("bare server", port=port)
    server.stdout.readline()
    made = result(part("bare devices", port=port, payload_bytes=payload_bytes, in_flight=in_flight, seconds=seconds))
    result(server)
    return made


def rate(found):
    return found.get("steps", found.get("trips")) / found["seconds"]


def measure(port, options, show):
    """Every row, shown when it is there."""
    for samples in options.kb:
        for devices in options.devices:
            turns = []
            for number in range(options.rounds):
                peer = bare(port, samples * KB, min(devices, 10), options.seconds / 2)
                turns.append(
                    (ours(port, f"load-{devices}-{samples}-{number}", devices, samples, options.seconds), peer)
                )
            show(
                what="no model",
                devices=devices,
                payload_kb=samples,
                steps_per_s=median(rate(own) for own, _ in turns),
                bare_per_s=median(rate(peer) for _, peer in turns),
                ratio=median(rate(own) / rate(peer) for own, peer in turns),
                p50_ms=median(own["p50_ms"] for own, _ in turns),
                p99_ms=median(own["p99_ms"] for own, _ in turns),
                rss_mb=median(own["rss_mb"] for own, _ in turns),
            )
    turns = []
    for number in range(options.rounds):
        peer = bare(port, 200 * KB, 1, options.seconds / 2)
        turns.append((ours(port, f"trip-{number}", 1, 200, options.seconds / 2), peer))
    show(
        what="one round trip",
        devices=1,
        payload_kb=200,
        p50_ms=median(own["p50_ms"] for own, _ in turns),
        bare_p50_ms=median(peer["p50_ms"] for _, peer in turns),
        ratio=median(own["p50_ms"] / peer["p50_ms"] for own, peer in turns),
    )
    turns = []
    for number in range(options.rounds):
        settings = {"name": "vgg", "port": port, "devices": 4, "samples": 64}
        peer = result(part("bare loop", seconds=options.seconds, **settings))
        turns.append((ours(port, f"vgg-{number}", 4, 64, 2 * options.seconds), peer))
    show(
        what="VGG11 after features.5, batch 64, FP8",
        devices=4,
        payload_kb=64 * 8,
        steps_per_s=median(rate(own) for own, _ in turns),
        bare_per_s=median(rate(peer) for _, peer in turns),
        ratio=median(rate(own) / rate(peer) for own, peer in turns),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--kb", type=int, nargs="+", default=[20, 200], help="payload each way")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        print(json.dumps(play(**json.loads(options.role))))
        return

    def show(**row):
        if options.json:
            print(msgspec.json.encode(row).decode(), flush=True)
        else:
            print(
                "  ".join(
                    f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
                ),
                flush=True,
            )

    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder, start_broker(Path(folder), "mosquitto") as broker:
        measure(broker.port, options, show)


if __name__ == "__main__":
    main()
