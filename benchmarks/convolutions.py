"""One convolution and its gradients, ours on onnxruntime and torch's, in one process.

    python benchmarks/convolutions.py

3x3 convolutions, batch 32, milliseconds. The contenders take turns of a few runs; the median. "constant" is
onnxruntime's forward pass when the weights are constants, which lets it use blocked kernels; weights that are trained
are inputs ("ours"). Then all three passes together: direct, Winograd's way, and torch's; how many times as fast
Winograd's way is as the direct one, and what an export estimates of that to choose one of them.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from statistics import median

TURNS, STEPS, BATCH = 3, 5, 32
REST_S = 0.02
"""Between two, so that the threads of the one before are at rest."""
SHAPES = (
    (3, 64, 32), (16, 16, 32), (32, 32, 32), (64, 64, 32), (64, 64, 24), (16, 16, 16), (32, 64, 16), (64, 128, 16),
    (16, 32, 8), (64, 64, 8), (128, 256, 8), (256, 256, 8), (256, 512, 4), (32, 64, 56),
)  # fmt: skip
"""Channels of x, channels of the result, height and width."""
NAMES = ["y", "dw", "dx"]


def session(model, threads: int, names: list[str]):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # as the engine has it
    run = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda **values: run.run(names, values)


def exported(function, inputs, names: list[str], least_gain: float | None = None):
    """A function of torch tensors as ONNX, by the translations that an export uses."""
    from torch.fx import symbolic_trace
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    from cutlayer_export.graph.training_graph import Graph
    from cutlayer_export.graph.winograd_layers import use_winograd
    from cutlayer_export.onnx.lines import keep_lines
    from cutlayer_export.onnx.writer import to_onnx

    module = symbolic_trace(function)
    FakeTensorProp(module).propagate(*inputs.values())
    if least_gain is not None:
        use_winograd(module, least_gain)
        keep_lines(module)
    return to_onnx(Graph(module, inputs, names, ()))


def contenders(channels: int, outputs: int, size: int, threads: int):
    import torch
    from onnx import numpy_helper

    from cutlayer_export.graph import operators  # noqa: F401 - registers the operators

    geometry = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    x, g = torch.randn(BATCH, channels, size, size), torch.randn(BATCH, outputs, size, size)
    w, shape = torch.randn(outputs, channels, 3, 3), [outputs, channels, 3, 3]
    ours, aten = torch.ops.cutlayer, torch.ops.aten
    passes = {
        "y": lambda x, w: [aten.convolution.default(x, w, None, *geometry)],
        "dw": lambda x, g: [ours.convolution_grad_weight.default(x, g, shape, *geometry)],
        "dx": lambda g, w: [ours.convolution_grad_input.default(g, w, [size, size], *geometry)],
    }

    def every(x, w, g):
        return [*passes["y"](x, w), *passes["dw"](x, g), *passes["dx"](g, w)]

    models = {
        "y": exported(passes["y"], {"x": x, "w": w}, ["y"]),
        "dw": exported(passes["dw"], {"x": x, "g": g}, ["dw"]),
        "dx": exported(passes["dx"], {"g": g, "w": w}, ["dx"]),
    }
    constant = type(models["y"]).FromString(models["y"].SerializeToString())
    constant.graph.input.remove(next(each for each in constant.graph.input if each.name == "w"))
    constant.graph.initializer.append(numpy_helper.from_array(w.numpy(), "w"))
    values = {"x": x, "w": w, "g": g}
    runs = {name: session(model, threads, [name]) for name, model in models.items()}
    fixed = session(constant, threads, ["y"])
    direct, winograd = (session(exported(every, values, NAMES, least), threads, NAMES) for least in (None, 0))
    xn, gn, wn = x.numpy(), g.numpy(), w.numpy()
    for mine, theirs in zip(direct(x=xn, w=wn, g=gn), winograd(x=xn, w=wn, g=gn), strict=True):
        assert abs(mine - theirs).max() < 1e-4 * abs(mine).max()

    def gradient(*mask):
        return aten.convolution_backward(g, x, w, None, *geometry, mask)

    return {
        "forward ours": lambda: runs["y"](x=xn, w=wn),
        "constant": lambda: fixed(x=xn),
        "torch": lambda: aten.convolution(x, w, None, *geometry),
        "weight ours": lambda: runs["dw"](x=xn, g=gn),
        "weight torch": lambda: gradient(False, True, False),
        "input ours": lambda: runs["dx"](g=gn, w=wn),
        "input torch": lambda: gradient(True, False, False),
        "all direct": lambda: direct(x=xn, w=wn, g=gn),
        "winograd": lambda: winograd(x=xn, w=wn, g=gn),
        "all torch": lambda: (aten.convolution(x, w, None, *geometry), gradient(True, True, False)),
    }


def estimate(channels: int, outputs: int, size: int) -> float:
    from cutlayer_export.graph.winograd import Layer
    from cutlayer_export.graph.winograd_layers import gain

    return gain(Layer(channels, outputs, (size, size), (1, 1)))


def worker(threads: int, shapes: Iterable[tuple[int, ...]]) -> None:
    import torch

    torch.set_num_threads(threads)
    for channels, outputs, size in shapes:
        runs = contenders(channels, outputs, size, threads)
        times = {name: [] for name in runs}
        for name, run in [*runs.items()] * TURNS:
            time.sleep(REST_S)
            run()
            for _ in range(STEPS):
                begun = time.perf_counter()
                run()
                times[name].append(1e3 * (time.perf_counter() - begun))
        found = {name: median(each) for name, each in times.items()}
        text = "  ".join(f"{name} {spent:.1f}" for name, spent in found.items())
        ratio = found["all direct"] / found["winograd"]
        print(
            f"{channels:3} to {outputs:3} at {size}x{size}:  {text}  "
            f"{ratio:.2f}x, estimated {estimate(channels, outputs, size):.2f}x",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, help="only images of this height and width")
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        worker(options.threads, [each for each in SHAPES if options.size in (None, each[2])])
        return
    for threads in (1, 2):
        print(f"{threads} thread{'s' * (threads > 1)}", flush=True)
        words = [sys.executable, __file__, *sys.argv[1:], "--threads", str(threads)]
        subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, check=True)


if __name__ == "__main__":
    main()
