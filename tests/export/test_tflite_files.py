"""What stands in TFLite files, held against the runtime's own schema and what runtimes are fast at."""

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import interpreter as runtime
from ai_edge_litert import schema_py_generated as schema
from torch import nn

from clients import IMAGE, graphs_of
from cutlayer_core.trial.recipe import InputSpec
from cutlayer_export.graph.form import Form
from cutlayer_export.tflite.file import ACTIVATIONS, KINDS, to_file
from cutlayer_export.tflite.graph import Graph, entries

NET = [
    nn.Conv2d(3, 12, 3, padding=1),
    nn.BatchNorm2d(12),
    nn.ReLU6(),
    nn.Conv2d(12, 12, 3, groups=12),
    nn.ReLU(),
    nn.MaxPool2d(2),
]


def read(content):
    return schema.ModelT.InitFromPackedBuf(content, 0)


def operations(content):
    """Kind, and which inputs are constants."""
    model = read(content)
    (graph,) = model.subgraphs
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    constant = [bool(model.buffers[tensor.buffer].data is not None) for tensor in graph.tensors]
    return [
        (names[model.operatorCodes[each.opcodeIndex].builtinCode], [constant[at] for at in each.inputs if at >= 0])
        for each in graph.operators
    ]


@pytest.fixture(scope="module")
def files():
    return {
        target: graphs_of(nn.Sequential(*NET), IMAGE, form=Form("tflite", target)).files
        for target in ("xnnpack", "generic")
    }


@pytest.mark.parametrize("name", KINDS)
def test_codes_and_options_are_those_of_the_schema(name):
    kind = KINDS[name]
    assert kind.code == getattr(schema.BuiltinOperator, name)
    if not kind.options:
        assert not kind.fields
        return
    title = next(title for title, number in vars(schema.BuiltinOptions).items() if number == kind.options)
    values = [(field, 2 if how in "bit" else how == "B" or 0.5) for field, _, how in kind.fields]
    builder = flatbuffers.Builder()
    builder.StartObject(1 + max((slot for _, slot, _ in kind.fields), default=0))
    put = {"b": builder.PrependInt8Slot, "t": builder.PrependInt8Slot, "i": builder.PrependInt32Slot}
    put |= {"B": builder.PrependBoolSlot, "f": builder.PrependFloat32Slot}
    for (_, slot, how), (_, value) in zip(kind.fields, values, strict=True):
        put[how](slot, value, 0)
    builder.Finish(builder.EndObject())
    read_back = getattr(schema, f"{title}T").InitFromPackedBuf(bytes(builder.Output()), 0)
    ours = {THEIRS.get(field, field): value for field, value in values}
    found = {field: getattr(read_back, field) for field in ours}
    assert found == ours


THEIRS = {
    "stride_width": "strideW", "stride_height": "strideH", "dilation_width": "dilationWFactor", "dilation_height": "dilationHFactor",
    "window_width": "filterWidth", "window_height": "filterHeight", "activation": "fusedActivationFunction",
    "multiplier": "depthMultiplier", "turn_b": "adjY", "source": "inDataType", "target": "outDataType",
    "result": "outType", "places": "outputType", "keep": "keepDims", "begins": "beginMask", "ends": "endMask",
}  # fmt: skip


def test_activations_are_those_of_the_schema():
    assert {name: getattr(schema.ActivationFunctionType, name) for name in ACTIVATIONS} == ACTIVATIONS


@pytest.mark.parametrize("target", ["xnnpack", "generic"])
def test_files_are_of_builtin_operations_of_version_one_and_of_one_graph(files, target):
    for content in files[target].values():
        model = read(content)
        assert model.version == 3
        assert len(model.subgraphs) == len(model.signatureDefs) == 1
        assert {code.version for code in model.operatorCodes} == {1}
        assert all(code.customCode is None for code in model.operatorCodes)
        assert {kind for kind, _ in operations(content)} <= KINDS.keys()


def test_weights_of_convolutions_stand_in_the_files_for_xnnpack_and_nowhere_else(files):
    assert files["xnnpack"].keys() - files["generic"].keys() == {
        "inference-filters",
        "forward-filters",
        "backward-filters",
    }
    for target, wanted in (("xnnpack", True), ("generic", False)):
        for name in ("inference", "forward", "backward"):
            weights = [inputs[1] for kind, inputs in operations(files[target][name]) if kind.endswith("CONV_2D")]
            assert weights
            assert all(weights) is wanted, name


def test_batch_norm_with_running_statistics_and_relu_are_part_of_the_convolution(files):
    kinds = [kind for kind, _ in operations(files["xnnpack"]["inference"])]
    assert kinds == ["TRANSPOSE", "CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "TRANSPOSE"]


def test_backward_is_one_part_for_xnnpack(files):
    interpreter = runtime.Interpreter(model_content=files["xnnpack"]["backward"], num_threads=1)
    for each in interpreter.get_input_details():
        if -1 in each["shape_signature"]:
            interpreter.resize_tensor_input(
                each["index"], [4 if size == -1 else size for size in each["shape_signature"]]
            )
    interpreter.allocate_tensors()
    assert sum(each["op_name"] == "DELEGATE" for each in interpreter._get_ops_details()) == 1


@pytest.mark.parametrize(("channels", "outputs", "size", "one"), [(1, 32, 3, True), (3, 8, 3, True), (3, 12, 3, False)])
def test_the_weight_gradient_of_a_narrow_kernel_is_one_convolution_with_the_gradient(channels, outputs, size, one):
    net = nn.Sequential(nn.Conv2d(channels, outputs, size), nn.Tanh())
    backward = operations(graphs_of(net, InputSpec(shape=(channels, 8, 8)), form=Form("tflite")).files["backward"])
    assert [inputs[1] for kind, inputs in backward if kind == "CONV_2D"] == [False] * one


def saved(module, shape=IMAGE):
    """Shapes of what forward saves for backward, of a batch of one."""
    content = graphs_of(module, shape, form=Form("tflite")).files["forward"]
    interpreter = runtime.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    outputs = interpreter.get_output_details()
    return sorted(tuple(each["shape"]) for each in outputs if each["name"].startswith("saved."))


def test_what_follows_quickly_from_samples_is_computed_again_rather_than_saved():
    stem = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
    assert saved(nn.Sequential(*stem, nn.Conv2d(8, 4, 1))) == []
    wide = [nn.Conv2d(3, 8, 5, padding=2), nn.ReLU()]
    assert saved(nn.Sequential(*wide, nn.Conv2d(8, 4, 1))) == [(1, 8, 8, 8)]
    several = [each for _ in range(4) for each in (nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())]
    assert saved(nn.Sequential(*several, nn.Conv2d(3, 4, 1))) == [(1, 8, 8, 3)] * 2, "two together take few"


@pytest.mark.parametrize("size", [3, 5])
def test_smashed_data_are_neither_saved_nor_computed_a_second_time(size):
    net = nn.Sequential(nn.Conv2d(3, 32, size), nn.ReLU())
    assert saved(net) == []
    backward = operations(graphs_of(net, IMAGE, form=Form("tflite")).files["backward"])
    assert "CONV_2D" not in [kind for kind, _ in backward]


def test_what_is_computed_again_is_so_when_it_is_read():
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 8, 3), nn.ReLU())
    kinds = [kind for kind, _ in operations(graphs_of(net, IMAGE, form=Form("tflite")).files["backward"])]
    gradient, again = (at for at, kind in enumerate(kinds) if kind == "CONV_2D")
    assert kinds.index("BATCH_MATMUL") < gradient < again


def test_exporting_twice_gives_the_same_bytes(files):
    assert graphs_of(nn.Sequential(*NET), IMAGE, form=Form("tflite")).files == files["xnnpack"]


def run(build, x):
    """What a graph of one input makes of ``x`` at run time."""
    graph = Graph(delegated=True)
    y = build(graph, graph.input("x", (-1, *x.shape[1:]), "float32"))
    y.name, graph.outputs["y"] = "y", y
    interpreter = runtime.Interpreter(model_content=to_file(graph, "test").content, num_threads=1)
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.parametrize(
    ("start", "stop", "step"), [(0, 9, 2), (1, 8, 2), (2, 9, 3), (4, 9, 4), (8, 9, 5), (0, 1, 1), (3, 7, 1)]
)
def test_a_slice_with_steps_is_that_of_numpy(start, stop, step):
    x = np.random.default_rng(0).standard_normal((4, 5, 9, 2)).astype(np.float32)
    found = run(lambda graph, each: graph.slice(each, [0, 0, start, 0], [None, None, stop, None], [1, 1, step, 1]), x)
    np.testing.assert_array_equal(found, x[:, :, start:stop:step])


def test_more_tensors_than_xnnpack_joins_are_joined_in_their_order():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = run(lambda graph, each: graph.concatenate([graph.scaled(each, 2.0**at) for at in range(13)], 1), x)
    np.testing.assert_array_equal(found, np.concatenate([x * 2**at for at in range(13)], 1))


def test_a_batch_stands_in_one_dimension_only():
    assert entries((-2, 3, 4)) == -24
    with pytest.raises(NotImplementedError, match="in two of its dimensions"):
        entries((-1, -2))


def test_equal_operations_are_one_and_those_on_constants_are_done_at_once():
    graph = Graph(delegated=True)
    x = graph.input("x", (-1, 4), "float32")
    assert graph.scaled(x, 2.0) is graph.scaled(x, 2.0)
    assert len(graph.operations) == 1
    folded = graph.plus(graph.constant([1.0, 2.0]), graph.constant(3.0))
    np.testing.assert_array_equal(folded.data, [4.0, 5.0])
    assert len(graph.operations) == 1
