"""Run the cases of `cases` on whatever TFLite runtime is here: needs numpy and that, and of cutlayer two files.

    python replay.py CUTLAYER/core CUTLAYER/device_runtime CASES

Prints the runtime and the number of cases, then a line a case that is not as torch says; status 1 if there is one.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np

TOLERANCE = 1e-4


def load(core, device_runtime):
    """The device's wrapper of a graph, without the packages that the rest of the device needs."""
    sys.path.insert(0, core)
    path = Path(device_runtime) / "cutlayer_device" / "engines" / "tflite_graph.py"
    spec = importlib.util.spec_from_file_location("tflite_graph", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def step(graph, folder, given):
    """What forward and backward give, as the engine runs them."""

    def run(name, values):
        if filters := graphs.get(f"{name}-filters"):
            filters.feed(values)
            graphs[name].write({int(place): value for place, value in filters.run({}).items()})
        graphs[name].feed(values)
        return graphs[name].run({})

    graphs = {path.stem: graph(path.read_bytes(), 1) for path in folder.glob("*.tflite")}
    forward = run("forward", given)
    saved = graphs["forward"].saved({})
    return forward | run("backward", given | saved | {"z": forward["z"]})


def error(found, wanted, floor):
    if not wanted.size:
        return 0.0
    return float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), floor, 1e-30))


def errors(case, found):
    """Of gradients relative to a hundredth of the greatest at least: one that is zero is all rounding."""
    greatest = max(np.abs(case[name]).max() for name in case.files if name.startswith("gradient."))
    for name in case.files:
        kind, _, rest = name.partition(".")
        if kind == "gradient":
            before = case[f"in.params.{rest}"].astype(np.float64)
            after = found[f"new_params.{rest}"]
            if f"rows.{rest}" in case.files:  # of a table, whose other rows have no gradient
                rows = case[f"rows.{rest}"]
                after, whole = before.copy(), after
                after[rows] = whole[: len(rows)]
            yield rest, error(before - after, case[name], 0.01 * greatest)
        elif name == "out.z":
            yield "z", error(found["z"], case[name], 0.0)
        elif kind == "out" and f"new_{rest}" in found:
            yield rest, error(found[f"new_{rest}"], case[name], 0.0)


def main(core, device_runtime, cases):
    module = load(core, device_runtime)
    folders = sorted(Path(cases).iterdir())
    failed = []
    for folder in folders:
        case = np.load(folder / "case.npz")
        given = {name[3:]: case[name] for name in case.files if name.startswith("in.")}
        try:
            name, worst = max(errors(case, step(module.TfliteGraph, folder, given)), key=lambda each: each[1])
        except Exception as problem:
            failed.append(f"{folder.name}: {problem}")
            continue
        if not worst <= TOLERANCE:
            failed.append(f"{folder.name}: {name} differs by {worst:.1e}")
    print(f"{module.RUNTIME}: {len(folders)} cases, {len(failed)} failed", *failed, sep="\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
