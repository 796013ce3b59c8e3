"""One training step of the client-side model: our bundles on onnxruntime and ai-edge-litert, torch eager and torch.compile.

    python benchmarks/client_step.py [--compile] [--only vgg11] [--runs 5]

Forward, backward and optimizer (SGD with momentum and weight decay) of a batch of 32, each engine in a process of its own,
since what one tells the C library of memory would help the other too. They take turns of a few steps, the first of which
warms the caches and does not count; the median of all others is a run's. Of several runs the median is printed, and of the
ratios the range too. Ratios are the time of torch divided by an engine's, so above 1 the engine is faster. Forward alone is
that of a step, in train mode. Then, each in a process of its own: the greatest resident memory while training; and for
VGG11 cut at features.5 the time from the start of the process to the end of the first step, and what the packages of its
runtime take up.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import distribution
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import NamedTuple

from step_cases import CASES, Case, recipe

SHAPES = "shapes.json"
ENGINES = {"onnx": ("onnxruntime",), "tflite": ("ai-edge-litert",)}
"""Ours, with the packages of their runtimes."""
PACKAGES = {**ENGINES, "torch": ("torch",)}
BATCH, TURNS, STEPS = 32, 4, 5
TOKEN_BATCHES, STARTS = 16, 3
REST_S = 0.02
"""Between the engines, so that the threads of the one before are at rest: some keep theirs spinning for a while."""


class Step(NamedTuple):
    """One training step: forward gives what backward takes."""

    forward: Callable[[], object]
    backward: Callable[[object], None]


START_CASE = CASES[1]


def path_of(case: Case, folder: Path, engine: str) -> Path:
    return folder / f"{case.name}@{case.cut}.{engine}"


def bundle_of(case: Case, folder: Path, engine: str) -> Path:
    """The exported bundle; both numbers of threads use the same."""
    from cutlayer_export import export_bundle
    from cutlayer_export.graph.form import Form

    path = path_of(case, folder, engine)
    if not path.exists():
        export_bundle(recipe(case), path, form=Form(engine))
    return path


def export_all(cases: Sequence[Case], folder: Path) -> None:
    """All bundles, and the shapes of what they send."""
    from cutlayer_core.bundles.bundle import read_bundle

    shapes = {}
    for case in cases:
        paths = [bundle_of(case, folder, engine) for engine in ENGINES]
        shapes[f"{case.name}@{case.cut}"] = read_bundle(paths[0]).manifest.client.smashed.shape
    (folder / SHAPES).write_text(json.dumps(shapes))


def chosen(only: str) -> list[Case]:
    return [case for case in CASES if only.lower() in f"{case.name}@{case.cut}".lower()]


def named(name: str) -> Case:
    return next(case for case in CASES if f"{case.name}@{case.cut}" == name)


def our_step(path: Path, threads: int, x, g) -> Step:
    from cutlayer_core.bundles.bundle import read_bundle
    from cutlayer_device.engines import load_engine

    engine, batches = load_engine(read_bundle(path), threads), cycle(x)
    return Step(lambda: engine.forward(next(batches), 0), lambda _: engine.backward(g, 0.01))


def torch_step(case: Case, x, g, *, compiled: bool = False) -> Step:
    import torch

    from cutlayer_cut import cut_model

    client = cut_model(recipe(case)).client.train()
    optimizer = torch.optim.SGD(client.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    forward = torch.compile(client) if compiled else client
    batches, g = cycle(torch.from_numpy(x)), torch.from_numpy(g)

    def backward(z) -> None:
        z.backward(g)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Step(lambda: forward(next(batches)), backward)


def data_of(case: Case, smashed: tuple[int, ...]):
    """Batches, which take turns, and a cut gradient. Tokens differ from step to step: what a table costs depends on it."""
    import numpy as np

    random = np.random.default_rng(1)
    if case.tokens:
        x = random.integers(0, case.tokens, (TOKEN_BATCHES, BATCH, *case.shape))
    else:
        x = random.standard_normal((1, BATCH, *case.shape), np.float32)
    return x, random.standard_normal((BATCH, *smashed), np.float32) * np.float32(1e-3)


def step_of(engine: str, case: Case, folder: Path, threads: int) -> Step:
    """Ready to run; ours in a process that cannot import torch."""
    smashed = tuple(json.loads((folder / SHAPES).read_text())[f"{case.name}@{case.cut}"])
    x, g = data_of(case, smashed)
    if engine in ENGINES:
        sys.modules["torch"] = None
        return our_step(path_of(case, folder, engine), threads, x, g)
    import torch

    torch.set_num_threads(threads)
    return torch_step(case, x, g, compiled=engine == "compile")


def turns_worker(engine: str, name: str, folder: Path, threads: int) -> None:
    """For each line of standard input a turn: the times of forward and of the whole step, in milliseconds."""
    step = step_of(engine, named(name), folder, threads)
    for _ in sys.stdin:
        step.backward(step.forward())
        times = []
        for _ in range(STEPS):
            begun = time.perf_counter()
            z = step.forward()
            half = time.perf_counter()
            step.backward(z)
            times.append((1e3 * (half - begun), 1e3 * (time.perf_counter() - begun)))
        print(json.dumps(times), flush=True)


Times = dict[str, tuple[float, float]]
"""Milliseconds of forward and of a whole step, by engine."""
FORWARD, STEP = 0, 1


def measure(case: Case, folder: Path, threads: int, engines: Sequence[str]) -> Times:
    """The medians of one run."""
    name = f"{case.name}@{case.cut}"
    workers = {each: call("--turns", each, name, str(folder), str(threads), threads=threads) for each in engines}
    times: dict[str, list[tuple[float, float]]] = {each: [] for each in engines}
    for _ in range(TURNS):
        for each, process in workers.items():
            time.sleep(REST_S)
            process.stdin.write("\n")
            process.stdin.flush()
            times[each] += json.loads(process.stdout.readline())
    for process in workers.values():
        process.communicate()
    return {name: tuple(map(median, zip(*each, strict=True))) for name, each in times.items()}


def memory_worker(engine: str, name: str, folder: Path, started: float) -> None:
    """Train a while; print the time of the first step since ``started`` and the greatest resident memory."""
    step = step_of(engine, named(name), folder, 1)
    step.backward(step.forward())
    first = time.time() - started
    for _ in range(20):
        step.backward(step.forward())
    # Not ru_maxrss, which a process takes over from the one that started it.
    status = Path("/proc/self/status").read_text("ascii")
    print(json.dumps([first, int(status.split("VmHWM:")[1].split()[0]) / 1024]))


def call(*arguments: str, threads: int) -> subprocess.Popen:
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    words = [sys.executable, __file__, *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(words, env=env, text=True, **pipes)


def speed(folder: Path, options: argparse.Namespace) -> None:
    engines = [*ENGINES, "eager", *(["compile"] if options.compile else [])]
    for threads in (1, 2):
        print(
            f"\n{threads} thread{'s' * (threads > 1)}, batch {BATCH}: milliseconds a step, and of that forward; then how many "
            f"times as fast as torch eager: the step, its range over {options.runs} runs, and forward"
        )
        found: list[list[Times]] = []
        for case in chosen(options.only):
            found.append([measure(case, folder, threads, engines) for _ in range(options.runs)])
            text = "  ".join(described(found[-1], each) for each in engines)
            print(f"{case.name + ' @ ' + case.cut:24} {text}", flush=True)
        for peer in (each for each in engines if each != "eager"):
            parts = []
            for what, part in (("step", STEP), ("forward", FORWARD)):
                by_case = [ratios(runs, peer, part) for runs in found]
                means = [math.exp(sum(map(math.log, each)) / len(each)) for each in zip(*by_case, strict=True)]
                parts.append(f"{what} {ranged(means)}, least {min(map(median, by_case)):.2f}x")
            print(f"geometric mean of {peer} against eager: {'; '.join(parts)}")


def described(runs: Sequence[Times], peer: str) -> str:
    half, step = (median(times[peer][part] for times in runs) for part in (FORWARD, STEP))
    text = f"{peer} {step:6.1f} {half:6.1f}"
    if peer == "eager":
        return text
    return f"{text} ({ranged(ratios(runs, peer, STEP))}, {median(ratios(runs, peer, FORWARD)):4.2f}x)"


def ratios(runs: Sequence[Times], peer: str, part: int) -> list[float]:
    """Of each run how many times as fast as torch eager."""
    return [times["eager"][part] / times[peer][part] for times in runs]


def ranged(values: Sequence[float]) -> str:
    return f"{median(values):4.2f}x {min(values):.2f} to {max(values):.2f}"


def memory(folder: Path, cases: Sequence[Case]) -> None:
    print(f"\nGreatest resident memory in MiB, batch {BATCH}, one thread, a process of its own, median of {STARTS}")
    for case in cases:
        found = {engine: resident(engine, case, folder)[1] for engine in PACKAGES}
        text = "  ".join(f"{engine} {mib:4.0f}" for engine, mib in found.items())
        print(f"{case.name + ' @ ' + case.cut:24} {text}", flush=True)
    print(f"\n{START_CASE.name} @ {START_CASE.cut}: from start to the end of the first step, and the runtime on disk")
    for engine, packages in PACKAGES.items():
        size = sum(map(installed_mb, packages))
        print(f"{engine:7} {resident(engine, START_CASE, folder)[0]:.2f} s  {size:.0f} MB of {' and '.join(packages)}")


def resident(engine: str, case: Case, folder: Path) -> tuple[float, float]:
    """Seconds to the end of the first step, and MiB."""
    runs = []
    for _ in range(STARTS):
        name = f"{case.name}@{case.cut}"
        output, _ = call("--memory", engine, name, str(folder), str(time.time()), threads=1).communicate()
        runs.append(json.loads(output))
    start, mib = map(median, zip(*runs, strict=True))
    return start, mib


def installed_mb(package: str) -> float:
    files = distribution(package).files or []
    return sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="also torch.compile (minutes of compiling)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="", help="part of a client's name")
    parser.add_argument("--turns", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turns:
        engine, name, folder, threads = options.turns
        turns_worker(engine, name, Path(folder), int(threads))
    elif options.memory:
        engine, name, folder, started = options.memory
        memory_worker(engine, name, Path(folder), float(started))
    else:
        with tempfile.TemporaryDirectory() as folder:
            export_all({*chosen(options.only), START_CASE}, Path(folder))
            speed(Path(folder), options)
            memory(Path(folder), chosen(options.only))


if __name__ == "__main__":
    main()
