"""What fewer bits cost and save a whole model on the board: TFLite bundles in float32, float16 and int8 beside ONNX.

    python benchmarks/precision.py --data FOLDER [--epochs 3]

Each model is trained in torch on 10,000 images of CIFAR-10 (Adam, batch 64), exported whole, and run by the device's engine on
one thread: accuracy over 5,000 test images that no training or calibration saw, and milliseconds for one image and for 32, the
median of turns in which the bundles alternate. The 200 samples of the calibration are of the training images.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.trial.optimizers import Sgd
from cutlayer_core.trial.recipe import Model, Recipe
from cutlayer_cut import build_model
from cutlayer_device.engines import load_engine
from cutlayer_export import export_bundle
from cutlayer_export.graph.form import PRECISIONS, Form
from images import cifar10

ZOO = "cutlayer_cut.zoo"
MODELS = {
    "VGG11, half as wide": (f"{ZOO}.vgg:VGG11", {"width": 0.5, "batch_norm": True}),
    "ResNet18, half as wide": (f"{ZOO}.resnet:ResNet18", {"width": 32}),
    "MobileNetV2": (f"{ZOO}.mobilenetv2:MobileNetV2", {}),
}
TRAINING, TEST, CALIBRATION, TURNS = 10_000, 5_000, 200, 15


def prepared(x):
    return (x.astype(np.float32) / 255 - 0.45) / 0.25


def trained(factory, kwargs, train, epochs, path):
    """A recipe whose weights are those of a model that was trained for a while."""
    model = Model(factory=factory, kwargs=kwargs, cut="none", input_shape=(3, 32, 32))
    net = build_model(model, seed=1).train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    random = np.random.default_rng(1)
    for _ in range(epochs):
        for places in np.array_split(random.permutation(len(train.y)), len(train.y) // 64):
            batch = train.take(places)
            optimizer.zero_grad()
            cross_entropy(
                net(torch.from_numpy(prepared(batch.x))), torch.from_numpy(batch.y.astype(np.int64))
            ).backward()
            optimizer.step()
    save_file(net.state_dict(), path)
    return Recipe(
        name="precision",
        model=Model(factory=factory, kwargs=kwargs, cut="none", input_shape=(3, 32, 32), weights=str(path)),
        optimizer=Sgd(learning_rate=0.01),
    )


def accuracy(engine, test):
    found = [engine.infer(prepared(part)).argmax(1) for part in np.array_split(test.x, 50)]
    return float((np.concatenate(found) == test.y).mean())


def milliseconds(engines, x):
    times = {name: [] for name in engines}
    for _ in range(TURNS):
        for name, engine in engines.items():
            engine.infer(x)
            begun = time.perf_counter()
            engine.infer(x)
            times[name].append(1e3 * (time.perf_counter() - begun))
    return {name: median(each) for name, each in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with cifar10.tar.gz")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(1)
    train, test = cifar10(options.data, Path("runs/images"))
    order = np.random.default_rng(0)
    train, test = (each.take(order.permutation(len(each.y))[:n]) for each, n in ((train, TRAINING), (test, TEST)))
    forms = {"onnx float32": Form()}
    forms |= {f"tflite {each}": Form("tflite", "xnnpack", each, prepared(train.x[:CALIBRATION])) for each in PRECISIONS}
    with tempfile.TemporaryDirectory() as folder:
        for title, (factory, kwargs) in MODELS.items():
            recipe = trained(factory, kwargs, train, options.epochs, Path(folder) / "weights.safetensors")
            bundles = {}
            for name, form in forms.items():
                path = Path(folder) / f"{title} {name}"
                export_bundle(recipe, path, form=form)
                bundles[name] = read_bundle(path)
            engines = {name: load_engine(bundle, 1) for name, bundle in bundles.items()}
            one, many = (milliseconds(engines, prepared(test.x[:n])) for n in (1, 32))
            print(f"\n{title:24} accuracy %  smashed data off by    ms, 1 image  32 images    graph MB")
            for name, bundle in bundles.items():
                size = len(bundle.graph("inference")) / 1e6
                off = bundle.certificate.precision_error
                row = (
                    f"{100 * accuracy(engines[name], test):22.2f}  {f'{off:.1e}' if off else '':>19}  {one[name]:12.2f}"
                )
                print(f"{name:14} {row}  {many[name]:9.1f}  {size:10.2f}", flush=True)


if __name__ == "__main__":
    main()
