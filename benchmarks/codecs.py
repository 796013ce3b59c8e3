"""Speed, bits and error of the codecs, on one thread.

    python benchmarks/codecs.py [--data FOLDER] [--values 4000000] [--rounds 15] [--json]

First FP8 as a ratio to ml_dtypes' cast in the same run, on normally distributed values. Then every codec on smashed data
of VGG11 cut at features.5, batch 64, and on cut gradients: what it sends, what it loses, how long it takes, and which share
of the client's training step (onnxruntime, one thread) its part on the board is. The images are CIFAR-10's if --data names
a folder with cifar10.tar.gz, else noise.

Contenders take turns within a round, so that a busy machine slows all of them alike; each figure is the median over
rounds, a ratio the median of the ratios within a round. MB/s are of float32.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: k-means multiplies matrices

import ml_dtypes
import numpy as np

from cutlayer_core.codecs import Codecs, Fp8, Fp16, Fwq, IntQ, ProductQuantizer, Raw, SplitFC, TopK
from cutlayer_core.codecs.lossless import shrink
from images import cifar10

CASTS = {"fp8 e4m3": Fp8("e4m3"), "fp8 e5m2": Fp8("e5m2")}
PEERS = {"fp8 e4m3": ml_dtypes.float8_e4m3fn, "fp8 e5m2": ml_dtypes.float8_e5m2}
PAIRS = {
    "raw": Codecs(),
    "fp16": Codecs(up=Fp16(), down=Fp16()),
    "fp8 e4m3": Codecs(up=Fp8(), down=Fp8()),
    "fp8 e4m3, searched scale": Codecs(up=Fp8(scale="search"), down=Fp8(scale="search")),
    "intq 8": Codecs(up=IntQ(), down=IntQ()),
    "intq 4, per channel": Codecs(up=IntQ(4, per="channel"), down=IntQ(4, per="channel")),
    "intq 2, stochastic": Codecs(up=IntQ(2, rounding="stochastic"), down=IntQ(2, rounding="stochastic")),
    "topk 10 %": Codecs(up=TopK(0.1), down=Raw()),
    "topk 1 %": Codecs(up=TopK(0.01), down=Raw()),
    "pq q=1024 L=8": Codecs(up=ProductQuantizer(1024, 8, correction=1e-4), down=Fp8()),
    "pq q=1024 L=2": Codecs(up=ProductQuantizer(1024, 2, correction=1e-4), down=Fp8()),
    "fwq 1.6": Codecs(up=Fwq(1.6), down=Fwq(1.6)),
    "fwq 0.4": Codecs(up=Fwq(0.4), down=Fwq(0.4)),
    "splitfc 0.4 R=4, fwq 0.4": Codecs(up=SplitFC(0.4, 4), down=Fwq(0.4)),
    "splitfc 0.2 R=8, fwq 0.2": Codecs(up=SplitFC(0.2, 8), down=Fwq(0.2)),
    "splitfc 0.1 R=16, fwq 0.1": Codecs(up=SplitFC(0.1, 16), down=Fwq(0.1)),
}
Turns = dict[tuple[str, str], Callable[[], object]]


def casts(values: np.ndarray) -> Turns:
    """Encode and decode of FP8, and of its peer."""
    turns: Turns = {}
    for name, codec in CASTS.items():
        payload, params = codec.encode(values)[:2]
        turns[name, "encode"] = lambda codec=codec: codec.encode(values)
        turns[name, "decode"] = lambda codec=codec, payload=payload, params=params: codec.decode(
            payload, params, values.shape
        )
    for name, dtype in PEERS.items():
        codes = values.astype(dtype)
        turns[f"ml_dtypes {name}", "encode"] = lambda dtype=dtype: values.astype(dtype)
        turns[f"ml_dtypes {name}", "decode"] = lambda codes=codes: codes.astype(np.float32)
    return turns


def measure(turns: Turns, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Seconds of each contender in each round, after one round that is not counted."""
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in turns}
    for number in range(rounds + 1):
        for key, run in turns.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[key].append(time.perf_counter() - start)
    return seconds


def cast_rows(values: np.ndarray, rounds: int) -> list[dict[str, object]]:
    """A row for each format of FP8 and direction."""
    seconds, found = measure(casts(values), rounds), []
    for name in CASTS:
        for way in ("encode", "decode"):
            ratios = [b / a for a, b in zip(seconds[name, way], seconds[f"ml_dtypes {name}", way], strict=True)]
            rate = round(values.nbytes / 1e6 / median(seconds[name, way]))
            found.append({"codec": name, "way": way, "mb_per_s": rate, "times_ml_dtypes": round(median(ratios), 1)})
    return found


class Step:
    """The client's training step, and what a server-side layer would send back."""

    def __init__(self, folder: Path, images: np.ndarray) -> None:
        from client_step import CASES, bundle_of
        from cutlayer_core.bundles.bundle import read_bundle
        from cutlayer_device.engines import load_engine

        self._engine, self._x = load_engine(read_bundle(bundle_of(CASES[1], folder, "onnx")), 1), images
        self.smashed = self._engine.forward(images, 0).copy()
        # A gradient as a network has it: a random linear map of what is active, small where the loss is flat.
        random = np.random.default_rng(0)
        pull = random.standard_normal((len(images), 1, *self.smashed.shape[2:])) * random.gamma(0.5, 1, (1, 128, 1, 1))
        self.gradient = (1e-4 * pull * random.standard_normal(self.smashed.shape)).astype(np.float32)

    def __call__(self) -> None:
        self._engine.forward(self._x, 0)
        self._engine.backward(self.gradient, 0.0)


def pair_turns(step: Step) -> Turns:
    """What the board does for each pair of codecs (encode up, decode down), and what the server does."""
    turns: Turns = {("step", ""): step}
    for name, codecs in PAIRS.items():
        sent = codecs.encode(step.smashed, 1)
        received = codecs.decode(sent.tensor, sent.payload)
        answer = codecs.encode_gradient(step.gradient, received, 1)
        memory = sent.memory
        turns[name, "encode up"] = lambda codecs=codecs, memory=memory: codecs.encode(step.smashed, 1, memory)
        turns[name, "decode up"] = lambda codecs=codecs, sent=sent: codecs.decode(sent.tensor, sent.payload)
        turns[name, "encode down"] = lambda codecs=codecs, received=received: codecs.encode_gradient(
            step.gradient, received, 1
        )
        turns[name, "decode down"] = lambda codecs=codecs, sent=sent, answer=answer: codecs.decode_gradient(
            answer.tensor, answer.payload, sent
        )
    return turns


def pair_rows(step: Step, rounds: int) -> tuple[float, list[dict[str, object]]]:
    """Milliseconds of the client's step, and a row for each pair of codecs."""
    seconds, found, entries = measure(pair_turns(step), rounds), [], step.smashed.size
    for name, codecs in PAIRS.items():
        sent = codecs.encode(step.smashed, 1)
        received = codecs.decode(sent.tensor, sent.payload)
        answer = codecs.encode_gradient(step.gradient, received, 1)
        error = float(((received.values - step.smashed) ** 2).sum() / (step.smashed**2).sum())
        shrunk = shrink(sent.payload)
        board = [
            (up + down) / whole
            for up, down, whole in zip(
                seconds[name, "encode up"], seconds[name, "decode down"], seconds["step", ""], strict=True
            )
        ]
        ways = ("encode up", "decode down", "decode up", "encode down")
        found.append(
            {
                "codecs": name,
                "up_bits_per_entry": round(8 * len(sent.payload) / entries, 3),
                "up_bits_per_entry_zstd": round(8 * len(shrunk or sent.payload) / entries, 3),
                "down_bits_per_entry": round(8 * len(answer.payload) / entries, 3),
                "relative_squared_error_up": float(f"{error:.2e}"),
                **{f"{way.replace(' ', '_')}_ms": round(1e3 * median(seconds[name, way]), 2) for way in ways},
                "encode_up_mb_per_s": round(step.smashed.nbytes / 1e6 / median(seconds[name, "encode up"])),
                "board_share_of_step": round(median(board), 3),
            }
        )
    return 1e3 * median(seconds["step", ""]), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder with cifar10.tar.gz")
    parser.add_argument("--values", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    plain = cast_rows(random.standard_normal(options.values, np.float32), options.rounds)
    with tempfile.TemporaryDirectory() as name:
        images = random.standard_normal((64, 3, 32, 32)).astype(np.float32)
        if options.data:
            dataset = cifar10(options.data, Path(name))
            images = (dataset.train.take(random.permutation(50_000)[:64]).x / np.float32(255) - 0.47) / np.float32(0.25)
        step_ms, pairs = pair_rows(Step(Path(name), images.astype(np.float32)), options.rounds)
    if options.json:
        print(json.dumps({"casts": plain, "client_step_ms": step_ms, "pairs": pairs}, indent=2))
        return
    print(f"{options.values:,} values, one thread, median of {options.rounds} rounds")
    print(f"{'codec':<10} {'way':<7} {'MB/s':>6} {'x ml_dtypes':>12}")
    for row in plain:
        print(f"{row['codec']:<10} {row['way']:<7} {row['mb_per_s']:>6} {row['times_ml_dtypes']:>12.1f}")
    print(f"\nVGG11 @ features.5, batch 64, one thread; the client's step is {step_ms:.0f} ms")
    print(f"{'':<26} {'bits an entry':^22} {'error':>8} {'board ms':^11} {'server ms':^11} {'up':>6} {'of the':>7}")
    print(
        f"{'codecs':<26} {'up':>6} {'zstd':>7} {'down':>7} {'up':>8} {'enc':>5} {'dec':>5} {'dec':>5} {'enc':>5} "
        f"{'MB/s':>6} {'step':>7}"
    )
    for row in pairs:
        print(
            f"{row['codecs']:<26} {row['up_bits_per_entry']:>6.3f} {row['up_bits_per_entry_zstd']:>7.3f} "
            f"{row['down_bits_per_entry']:>7.3f} {row['relative_squared_error_up']:>8.1e} {row['encode_up_ms']:>5.1f} "
            f"{row['decode_down_ms']:>5.1f} {row['decode_up_ms']:>5.1f} {row['encode_down_ms']:>5.1f} "
            f"{row['encode_up_mb_per_s']:>6} {row['board_share_of_step']:>7.1%}"
        )


if __name__ == "__main__":
    main()
