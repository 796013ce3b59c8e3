"""The clients whose training step `client_step.py` measures."""

from typing import NamedTuple

from cutlayer_core.trial.optimizers import Sgd
from cutlayer_core.trial.recipe import Model, Recipe


class Case(NamedTuple):
    name: str
    factory: str
    cut: str
    shape: tuple[int, ...]
    kwargs: tuple[tuple[str, object], ...] = ()
    tokens: int = 0


IMAGE, ZOO = (3, 32, 32), "cutlayer_cut.zoo"
CASES = [
    Case("VGG11", f"{ZOO}.vgg:VGG11", "features.2", IMAGE),
    Case("VGG11", f"{ZOO}.vgg:VGG11", "features.5", IMAGE),
    Case("VGG11", f"{ZOO}.vgg:VGG11", "features.10", IMAGE),
    Case("VGG11-BN", f"{ZOO}.vgg:VGG11", "features.7", IMAGE, (("batch_norm", True),)),
    Case("ResNet18", f"{ZOO}.resnet:ResNet18", "relu", IMAGE),
    Case("ResNet18", f"{ZOO}.resnet:ResNet18", "layer1", IMAGE),
    Case("ResNet18", f"{ZOO}.resnet:ResNet18", "layer2.0", IMAGE),
    Case("MobileNetV2", f"{ZOO}.mobilenetv2:MobileNetV2", "features.1", IMAGE),
    Case("MobileNetV2", f"{ZOO}.mobilenetv2:MobileNetV2", "features.3", IMAGE),
    Case("LeNet", f"{ZOO}.lenet:LeNet", "features.2", (1, 28, 28)),
    Case("LeNet", f"{ZOO}.lenet:LeNet", "features.5", (1, 28, 28)),
    Case("DigitsNet", f"{ZOO}.digits:DigitsNet", "stem", (1, 8, 8)),
    Case("MLP", f"{ZOO}.mlp:Mlp", "act2", (1, 28, 28)),
    Case("TextEncoder", f"{ZOO}.text_encoder:TextEncoder", "embedding", (64,), tokens=10_000),
    Case("TextEncoder", f"{ZOO}.text_encoder:TextEncoder", "layers.0", (64,), tokens=10_000),
]


def recipe(case: Case) -> Recipe:
    """What is exported of it."""
    tokens = {"input_dtype": "int64", "input_range": (0, case.tokens - 1)} if case.tokens else {}
    model = Model(factory=case.factory, cut=case.cut, input_shape=case.shape, kwargs=dict(case.kwargs), **tokens)
    return Recipe(name="bench", model=model, optimizer=Sgd(learning_rate=0.01, momentum=0.9, weight_decay=5e-4))
