"""Weight gradients of convolutions, by whichever way their shape takes, are torch's."""

import onnx
import pytest
from torch import nn

from clients import certified, graphs_of
from cutlayer_core.trial.recipe import InputSpec
from cutlayer_export.onnx import convolution

IMAGE, SIGNAL, VOLUME = InputSpec(shape=(6, 9, 10)), InputSpec(shape=(6, 20)), InputSpec(shape=(2, 5, 6, 4))
LARGE = InputSpec(shape=(16, 28, 28))
SWEPT = [
    (nn.Conv2d(6, 8, 3, padding=1), IMAGE),
    (nn.Conv2d(6, 8, (3, 2), stride=(2, 3), padding=(1, 0)), IMAGE),
    (nn.Conv2d(6, 8, 3, dilation=2, padding=2), IMAGE),
    (nn.Conv2d(6, 8, 3, stride=4), IMAGE),
    (nn.Conv2d(6, 8, 1, stride=2), IMAGE),
    (nn.Conv2d(6, 9, 3, groups=3), IMAGE),
    (nn.Conv1d(6, 8, 5, stride=2, padding=2), SIGNAL),
    (nn.Conv3d(2, 4, 3, padding=(1, 0, 1)), VOLUME),
    (nn.ConvTranspose2d(6, 8, 3, stride=2, padding=1), IMAGE),
    (nn.Conv2d(16, 4, 3, padding=1), LARGE),
    (nn.Conv2d(1, 32, 5), InputSpec(shape=(1, 9, 9))),
]


@pytest.mark.parametrize("most", [1, 400, 1 << 15], ids=["a tap at a time", "a few taps", "all at once"])
@pytest.mark.parametrize(("layer", "spec"), SWEPT, ids=lambda each: str(each) if isinstance(each, nn.Module) else "")
def test_the_weight_gradient_is_that_of_torch(layer, spec, most, monkeypatch):
    monkeypatch.setattr(convolution, "_MOST_GATHERED", most)
    assert certified(nn.Sequential(layer, nn.Tanh()), spec).valid


def test_no_window_is_sliced_since_slices_use_one_thread():
    files = graphs_of(nn.Sequential(nn.Conv2d(6, 16, 5), nn.Tanh()), IMAGE).files
    kinds = [node.op_type for node in onnx.load_from_string(files["backward"]).graph.node]
    assert "Slice" not in kinds
    assert kinds.count("Gather") == 1
