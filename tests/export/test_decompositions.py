"""Our backward decompositions against torch's own kernels."""

import pytest
import torch

from cutlayer_export.decompositions import avg_pool2d_backward, convolution_backward, max_pool2d_backward

CONVOLUTIONS = [
    # channels in, out, groups, kernel, stride, padding, dilation, size
    (3, 8, 1, (3, 3), (1, 1), (1, 1), (1, 1), (8, 8)),
    (3, 8, 1, (3, 3), (2, 2), (1, 1), (1, 1), (9, 8)),
    (4, 8, 1, (5, 3), (2, 1), (2, 0), (1, 2), (11, 12)),
    (4, 4, 1, (3, 3), (1, 1), (2, 2), (2, 2), (10, 7)),
    (4, 8, 2, (3, 3), (1, 1), (1, 1), (1, 1), (8, 8)),
    (6, 6, 6, (3, 3), (2, 2), (1, 1), (1, 1), (8, 9)),
    (4, 6, 1, (1, 1), (3, 3), (0, 0), (1, 1), (8, 8)),
    (4, 6, 1, (4, 4), (4, 4), (0, 0), (1, 1), (11, 8)),
    (4, 6, 2, (3,), (2,), (1,), (1,), (9,)),
]


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("batch", [1, 5])
def test_convolution_backward_equals_torch(case, batch):
    channels, out, groups, kernel, stride, padding, dilation, size = case
    torch.manual_seed(0)
    x = torch.randn(batch, channels, *size, dtype=torch.float64)
    weight = torch.randn(out, channels // groups, *kernel, dtype=torch.float64)
    zeros = [0] * len(kernel)
    y = torch.ops.aten.convolution(x, weight, None, stride, padding, dilation, False, zeros, groups)
    dy = torch.randn_like(y)
    arguments = (dy, x, weight, [out], stride, padding, dilation, False, zeros, groups, [True, True, True])
    wanted = torch.ops.aten.convolution_backward(*arguments)
    for found, reference in zip(convolution_backward(*arguments), wanted, strict=True):
        torch.testing.assert_close(found, reference)


def test_what_is_not_asked_for_is_not_computed():
    x, weight = torch.randn(2, 3, 4, 4), torch.randn(5, 3, 3, 3)
    dy = torch.randn(2, 5, 4, 4)
    arguments = (dy, x, weight, [5], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False])
    dx, dw, db = convolution_backward(*arguments)
    assert dx is None
    assert db is None
    assert dw.shape == weight.shape


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "ceil_mode"),
    [((2, 2), (2, 2), (0, 0), False), ((3, 3), (2, 2), (1, 1), False), ((3, 3), (1, 1), (1, 1), False),
     ((2, 2), (2, 2), (0, 0), True)],
)  # fmt: skip
def test_max_pool_backward_equals_torch_also_where_several_are_greatest(kernel, stride, padding, ceil_mode):
    torch.manual_seed(0)
    x = torch.randint(0, 3, (3, 4, 9, 8)).double()
    arguments = (kernel, stride, padding, (1, 1), ceil_mode)
    y, indices = torch.ops.aten.max_pool2d_with_indices(x, *arguments)
    dy = torch.randn_like(y)
    wanted = torch.ops.aten.max_pool2d_with_indices_backward(dy, x, *arguments, indices)
    torch.testing.assert_close(max_pool2d_backward(dy, x, *arguments, indices), wanted)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "divisor"),
    [((2, 2), (2, 2), (0, 0), None), ((3, 2), (2, 1), (1, 0), None), ((2,), (), (0,), 3)],
)
def test_average_pool_backward_equals_torch(kernel, stride, padding, divisor):
    torch.manual_seed(0)
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    y = torch.ops.aten.avg_pool2d(x, kernel, stride, padding, False, True, divisor)
    dy = torch.randn_like(y)
    arguments = (dy, x, kernel, stride, padding, False, True, divisor)
    torch.testing.assert_close(avg_pool2d_backward(*arguments), torch.ops.aten.avg_pool2d_backward(*arguments))
