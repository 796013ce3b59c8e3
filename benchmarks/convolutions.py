"""One convolution and its gradients, ours on onnxruntime and torch's, in one process.

    python benchmarks/convolutions.py

3x3 convolutions, batch 32, milliseconds. The contenders take turns of a few runs; the median. "constant" is
onnxruntime's forward pass when the weights are constants, which lets it use blocked kernels; weights that are trained
are inputs ("ours").
"""

import os
import subprocess
import sys
import time
from statistics import median

TURNS, STEPS, BATCH = 3, 5, 32
REST_S = 0.02
"""Between two, so that the threads of the one before are at rest."""
SHAPES = ((3, 64, 32), (64, 64, 32), (64, 128, 16), (128, 256, 8), (256, 256, 8))


def session(model, threads: int, name: str):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # as the engine has it
    run = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda **values: run.run([name], values)


def exported(function, inputs, name: str):
    """A function of torch tensors as ONNX, by the translations that an export uses."""
    from torch.fx import symbolic_trace

    from cutlayer_export.graph.training_graph import Graph
    from cutlayer_export.onnx.writer import to_onnx

    return to_onnx(Graph(symbolic_trace(function), inputs, [name], lambda text: ""))


def contenders(channels: int, outputs: int, size: int, threads: int):
    import torch
    from onnx import numpy_helper

    from cutlayer_export.graph import operators  # noqa: F401 - registers the operators

    geometry = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    x, g = torch.randn(BATCH, channels, size, size), torch.randn(BATCH, outputs, size, size)
    w, shape = torch.randn(outputs, channels, 3, 3), [outputs, channels, 3, 3]
    ours, aten = torch.ops.cutlayer, torch.ops.aten
    forward = exported(lambda x, w: [aten.convolution.default(x, w, None, *geometry)], {"x": x, "w": w}, "y")
    constant = type(forward).FromString(forward.SerializeToString())
    constant.graph.input.remove(next(each for each in constant.graph.input if each.name == "w"))
    constant.graph.initializer.append(numpy_helper.from_array(w.numpy(), "w"))
    weight = exported(
        lambda x, g: [ours.convolution_grad_weight.default(x, g, shape, *geometry)], {"x": x, "g": g}, "dw"
    )
    inputs = exported(
        lambda g, w: [ours.convolution_grad_input.default(g, w, [size, size], *geometry)], {"g": g, "w": w}, "dx"
    )
    runs = [
        session(model, threads, name)
        for model, name in ((forward, "y"), (constant, "y"), (weight, "dw"), (inputs, "dx"))
    ]
    xn, gn, wn = x.numpy(), g.numpy(), w.numpy()

    def gradient(*mask):
        return lambda: aten.convolution_backward(g, x, w, None, *geometry, mask)

    return {
        "forward ours": lambda: runs[0](x=xn, w=wn),
        "constant": lambda: runs[1](x=xn),
        "torch": lambda: aten.convolution(x, w, None, *geometry),
        "weight ours": lambda: runs[2](x=xn, g=gn),
        "weight torch": gradient(False, True, False),
        "input ours": lambda: runs[3](g=gn, w=wn),
        "input torch": gradient(True, False, False),
    }


def worker(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    for channels, outputs, size in SHAPES:
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
        print(f"{channels:3} to {outputs:3} at {size}x{size}:  {text}", flush=True)


def main() -> None:
    if len(sys.argv) > 1:
        worker(int(sys.argv[1]))
        return
    for threads in (1, 2):
        print(f"{threads} thread{'s' * (threads > 1)}", flush=True)
        env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run([sys.executable, __file__, str(threads)], env=env, check=True)


if __name__ == "__main__":
    main()
