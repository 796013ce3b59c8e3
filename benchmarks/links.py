"""What a link's round trip costs, and what hides it: chunks in flight, and running ahead where no answer is needed.

    python benchmarks/links.py [--megabytes 4] [--rounds 3] [--json]

Over a real mosquitto and each of the links that `cutlayer trial run --link` knows. First one large message from a board,
with 2 to 16 chunks in flight: how much of the link's rate it reaches, and how long the ping beside it takes. Then
the digits with a frozen client (schedule "forward"), in lockstep (each batch is acknowledged before the next is computed)
and running ahead. Contenders take turns with equal seeds, so that each meets the same stalls; figures are medians.
"""

import argparse
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from statistics import median

import msgspec

from cutlayer.demo import prepare
from cutlayer.lab.broker import start_broker
from cutlayer.lab.links import LINKS
from cutlayer.lab.shaper import Shaper
from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.codecs import Codecs, Raw
from cutlayer_core.record.record import Record, read_run
from cutlayer_core.samples import data
from cutlayer_core.schedules import Forward
from cutlayer_core.trial.trial import Broker, read_trial
from cutlayer_core.wire import endpoint
from cutlayer_core.wire.session import Link
from cutlayer_core.wire.transports import MqttTransport

WINDOWS = (2, 4, 8, 16)


def started(shaper):
    shaper.start()
    return shaper


def goodput(broker, profile, window, size, seed):
    """One message of ``size`` bytes up; returns Mbit/s, and the longest that a small packet beside it was on its way."""
    sender, receiver = Link(1, window=window), Link(2)
    with closing(started(Shaper(profile, broker.host, broker.port, seed))) as shaper:
        board = MqttTransport(broker.host, shaper.port, "goodput-board")
        server = MqttTransport(broker.host, broker.port, "goodput-server")
        board.subscribe("goodput/down")
        server.subscribe("goodput/up")
        server.subscribe("goodput/ping")
        sender.send(bytes(size))
        began, pinged_at, pings, arrived = time.monotonic(), 0.0, [], []
        while not arrived:
            now = time.monotonic()
            if now > pinged_at + 0.25:
                pinged_at = now
                board.publish("goodput/ping", repr(now).encode())
            for frame in sender.frames_to_send(now):
                board.publish("goodput/up", frame)
            while (packet := server.receive(0.0)) is not None:
                if packet.topic == "goodput/ping":
                    pings.append(time.monotonic() - float(packet.payload))
                else:
                    arrived += receiver.receive(packet.payload, time.monotonic())
            for frame in receiver.frames_to_send(time.monotonic()):
                server.publish("goodput/down", frame)
            packet = board.receive(0.002)
            if packet is not None:
                sender.receive(packet.payload, time.monotonic())
        spent = time.monotonic() - began
        board.close()
        server.close()
    return size * 8 / 1e6 / spent, max(pings)


def forward_trial(folder, broker):
    """The digits with a frozen client and float32 smashed data, 32 kB a step."""
    from cutlayer_export import export_bundle

    trial = read_trial(folder / "trial.toml")
    trial = msgspec.structs.replace(
        trial,
        name="ahead",
        devices=("board-1",),
        epochs=2,
        target_accuracy=None,
        patience_s=60.0,
        model=msgspec.structs.replace(trial.model, trainable="none"),
        codec=Codecs(up=Raw(), down=Raw()),
        schedule=Forward(),
        broker=Broker(host=broker.host, port=broker.port),
    )
    export_bundle(trial.recipe, folder / "client.bundle")
    return trial


def steps_per_s(folder, trial, run_dir, port, ahead):
    """A whole trial, the board behind the shaper at ``port``; steps a second of its last epoch."""
    from cutlayer_core.record.events import EpochDone
    from cutlayer_device.training.agent import Agent, birth_of
    from cutlayer_device.training.states import States
    from cutlayer_server.fleet.connection import connect
    from cutlayer_server.training.coordinator import Coordinator

    endpoint.WINDOW = 4 if ahead else 0
    bundle = read_bundle(folder / "client.bundle")
    samples = data.load(folder / "board-1.npz", trial.model.input)
    birth = birth_of(bundle, trial.name, "board-1", len(samples.y))

    def through_shaper(will, wait_s):
        return MqttTransport(trial.broker.host, port, f"ahead-{birth.epoch:x}", will, wait_s)

    with closing(States(run_dir / "state", bundle.manifest.client.fingerprint)) as states:
        board = threading.Thread(target=Agent(bundle, samples, birth, through_shaper, states, threads=1).run)
        board.start()
        test = data.load(folder / trial.data.test, trial.model.input, part="test")
        record = Record(run_dir / "run", "")
        Coordinator(trial, test).run(lambda will: connect(trial, will), record, lambda missing: None)
        board.join()
    last = read_run(run_dir / "run").all(EpochDone)[-1]
    return last.steps / last.duration_s


def measure(folder, broker, options, show):
    for name, profile in LINKS.items():
        for window in WINDOWS:
            found = [
                goodput(broker, profile, window, int(options.megabytes * 2**20), seed) for seed in range(options.rounds)
            ]
            show(
                link=name,
                window=window,
                mbit_s=median(rate for rate, _ in found),
                share_of_rate=median(rate for rate, _ in found) / profile.up_mbit_s,
                longest_ping_ms=1e3 * median(ping for _, ping in found),
            )
    prepare(folder)
    trial = forward_trial(folder, broker)
    for name, profile in LINKS.items():
        rates = {False: [], True: []}
        for seed in range(options.rounds):
            for ahead, found in rates.items():
                run_dir = folder / f"{name}-{seed}-{ahead}"
                with closing(started(Shaper(profile, broker.host, broker.port, seed))) as shaper:
                    found.append(steps_per_s(folder, trial, run_dir, shaper.port, ahead))
        show(
            link=name,
            lockstep_steps_s=median(rates[False]),
            ahead_steps_s=median(rates[True]),
            times=median(b / a for a, b in zip(rates[False], rates[True], strict=True)),
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    def show(**row):
        if options.json:
            print(msgspec.json.encode(row).decode(), flush=True)
        else:
            cells = [
                f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            ]
            print("  ".join(cells), flush=True)

    with tempfile.TemporaryDirectory() as temporary, start_broker(Path(temporary), "mosquitto") as broker:
        measure(Path(temporary) / "digits", broker, options, show)


if __name__ == "__main__":
    main()
