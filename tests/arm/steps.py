"""Three training steps of a bundle on one batch, written as an .npz: to be run here and on an emulated board.

python steps.py BUNDLE SAMPLES.npz OUT.npz
"""

import sys
from pathlib import Path

import numpy as np

from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_device.engines import load_engine


def main(bundle, samples, out):
    loaded = read_bundle(Path(bundle))
    loaded.require_certificate()
    engine = load_engine(loaded, 1)
    x = np.load(samples)["x"][:16].astype(np.float32)
    found = {}
    for step in range(3):
        z = engine.forward(x, step)
        found[f"z{step}"] = z.copy()  # the engine writes the next one there
        engine.backward(np.cos(np.arange(z.size, dtype=np.float32)).reshape(z.shape) / len(x), 0.05)
    np.savez(out, **found, **{f"w.{name}": array for name, array in engine.weights().items()})


main(*sys.argv[1:])
