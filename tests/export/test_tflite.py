"""The same clients as TFLite graphs, run by ai-edge-litert, and compared with torch autograd by the certificate."""

import pytest
from torch import nn

from client_cases import CLIENTS, OPTIMIZERS, OTHERS, Function, client, each
from clients import certified
from cutlayer_core.errors import UserError
from cutlayer_export.graph.form import Form

LEFT_OUT = {"volume"}
TARGETS = ["xnnpack", pytest.param("generic", marks=pytest.mark.slow)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", each(CLIENTS))
def test_an_image_client_trains_on_tflite_as_in_torch(name, target):
    assert certified(client(CLIENTS[name]), form=Form("tflite", target)).valid


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", each(sorted(OTHERS.keys() - LEFT_OUT)))
def test_any_other_client_trains_on_tflite_as_in_torch(name, target):
    spec, modules = OTHERS[name]
    assert certified(client(modules), spec, form=Form("tflite", target)).valid


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_steps_as_in_torch(name):
    modules = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    assert certified(client(modules), optimizer=OPTIMIZERS[name], form=Form("tflite")).valid


REFUSED = {
    "places in another shape": lambda: Function(
        nn.Conv2d(3, 4, 3), lambda x: x.gather(1, x.mean((2, 3), keepdim=True).argmax(1, keepdim=True))
    ),
    "places known at run time": lambda: Function(nn.Conv2d(3, 4, 3), lambda x: x[:, :, x[0, 0, 0].argsort()]),
    "the greatest of the batch": lambda: Function(nn.Conv2d(3, 4, 3), lambda x: x - x.max(0, keepdim=True)[0]),
    "pooling of three dimensions": lambda: Function(
        nn.Conv2d(3, 4, 3), lambda x: nn.functional.max_pool3d(x[:, None], 2)
    ),
    "sums over the batch so far": lambda: Function(nn.Conv2d(3, 4, 3), lambda x: x.cumsum(0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_the_documents_say_is_refused_is_so_by_name(name):
    with pytest.raises(UserError, match=r"builtin operations have no counterpart of (aten|cutlayer)\."):
        certified(client([REFUSED[name]()]), form=Form("tflite"))


def test_a_client_whose_gradients_are_all_zero_trains():
    assert certified(client([Function(nn.Conv2d(3, 4, 3), lambda x: x.round())]), form=Form("tflite")).valid


def test_an_operation_that_tflite_cannot_express_is_named_with_its_module():
    spec, modules = OTHERS["volume"]
    with pytest.raises(
        UserError, match=r"aten.convolution.default \(in the module '0'\) \(a convolution of 3 dimensions"
    ):
        certified(client(modules), spec, form=Form("tflite"))


def test_the_stride_of_a_tensor_that_grows_with_the_batch_is_a_number():
    def scaled(y):
        return y / y.transpose(0, 1).contiguous().stride(0)

    assert certified(client([Function(nn.Conv2d(3, 4, 3), scaled)]), form=Form("tflite")).valid
