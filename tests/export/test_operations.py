"""Every operation in the table trains on both engines as torch's autograd has it, or is refused as docs/operations.md says."""

import pytest

from clients import certified
from cutlayer_core.errors import UserError
from cutlayer_export.graph.form import Form
from operations import OPERATIONS, REFUSED

QUICK = {"atan", "sort", "spectrogram", "reflection_pad2d", "EmbeddingBag, mean", "grid_sample", "fold", "logical and"}


@pytest.mark.parametrize("engine", ["onnx", "tflite"])
@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=() if each in QUICK else pytest.mark.slow) for each in OPERATIONS]
)
def test_an_operation_is_trained_as_autograd_does_or_refused(name, engine):
    operation = OPERATIONS[name]
    if name in REFUSED[engine]:
        with pytest.raises(UserError, match="the part before the cut cannot be"):
            certified(operation.model(), operation.spec, form=Form(engine))
    else:
        assert certified(operation.model(), operation.spec, form=Form(engine)).valid
