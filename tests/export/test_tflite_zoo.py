"""Cuts of every model of the zoo as TFLite graphs; `cutlayer export --all-cuts` makes those of a model all."""

import pytest
import torch

from clients import certified, graphs_of
from cutlayer_core.trial.recipe import InputSpec
from cutlayer_cut import Cutter, examples
from cutlayer_cut.zoo.digits import DigitsNet
from cutlayer_cut.zoo.lenet import LeNet
from cutlayer_cut.zoo.mlp import Mlp
from cutlayer_cut.zoo.mobilenetv2 import MobileNetV2
from cutlayer_cut.zoo.resnet import ResNet18
from cutlayer_cut.zoo.resnet9 import ResNet9
from cutlayer_cut.zoo.text_encoder import TextEncoder
from cutlayer_cut.zoo.vgg import VGG11, VGG13
from cutlayer_export.graph.form import TARGETS, Form

pytestmark = pytest.mark.slow
GREY, COLOUR = InputSpec(shape=(1, 28, 28)), InputSpec(shape=(3, 32, 32))
SMALL = {
    "DigitsNet": (DigitsNet, InputSpec(shape=(1, 8, 8))),
    "LeNet": (LeNet, GREY),
    "Mlp": (lambda: Mlp((1, 8, 8), 16), InputSpec(shape=(1, 8, 8))),
    "TextEncoder": (
        lambda: TextEncoder(20, 8, 2, 16, 6, dropout=0.1),
        InputSpec(shape=(6,), dtype="int64", low=0, high=19),
    ),
}
FEW = 2
LARGE = {
    "VGG11": (VGG11, COLOUR),
    "VGG13 with BatchNorm": (lambda: VGG13(batch_norm=True), COLOUR),
    "ResNet9": (ResNet9, COLOUR),
    "ResNet18": (ResNet18, COLOUR),
    "ResNet18 for ImageNet": (lambda: ResNet18("imagenet"), InputSpec(shape=(3, 64, 64))),
    "MobileNetV2": (MobileNetV2, COLOUR),
}


def clients(build, spec):
    """The part before each cut that has parameters, by its name."""
    torch.manual_seed(0)
    cutter = Cutter(build().train(), examples(spec, 3, seed=0))
    return [(name, halves.client) for name, halves in cutter.possible().items() if list(halves.client.parameters())]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model", SMALL)
def test_every_cut_of_a_small_model_is_certified(model, target):
    for name, client in clients(*SMALL[model]):
        certificate = certified(client, SMALL[model][1], form=Form("tflite", target))
        assert certificate.valid, name


@pytest.mark.parametrize("model", LARGE)
def test_cuts_of_a_large_model_are_written(model):
    every = clients(*LARGE[model])
    for name, client in [*every[:: 1 + len(every) // FEW], every[-1]]:
        graphs = graphs_of(client, LARGE[model][1], form=Form("tflite"))
        assert {"inference", "forward", "backward"} <= graphs.files.keys(), name
