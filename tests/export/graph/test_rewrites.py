"""What the rewrites leave in a traced graph; that results stay the same is what certificates show."""

import torch
from torch import nn

from clients import IMAGE, SGD, TOKENS, described
from cutlayer_cut import examples
from cutlayer_cut.zoo.text_encoder import TextEncoder
from cutlayer_export.graph.rewrites import scale_weights_instead
from cutlayer_export.graph.training_graph import trace_training

ours, aten = torch.ops.cutlayer, torch.ops.aten


def operations(module, spec=IMAGE, also=lambda graph: None):
    _, state, _ = described(module, spec, SGD)
    graph = trace_training(module, state, examples(spec, 5, seed=1), "all", SGD)
    also(graph.module)
    return [node for node in graph.module.graph.nodes if node.op == "call_function"]


def of(nodes, operation):
    return [node for node in nodes if node.target is operation.default]


def test_a_relu_before_a_pool_is_masked_on_the_pooled_entries():
    nodes = operations(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)))
    (mask,) = of(nodes, ours.relu_grad)
    assert mask.args[0].op == "placeholder"
    assert mask.args[1].target is ours.max_pool.default


def test_the_scale_of_batch_norm_can_be_left_to_the_convolutions():
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)]
    assert of(operations(nn.Sequential(*layers)), ours.scale_channels)
    nodes = operations(nn.Sequential(*layers), also=scale_weights_instead)
    assert of(nodes, ours.convolution_grad_input)
    assert not of(nodes, ours.scale_channels)


def test_an_embeddings_gradient_is_scattered_onto_what_is_added_to_it():
    nodes = operations(nn.Sequential(nn.Embedding(20, 8)), TOKENS)
    (onto,) = {node for node in of(nodes, ours.embedding_grad_onto) if len(node.users) > 1}
    assert onto.args[0].target is aten.add.Tensor, "momentum and weight decay"


def test_attention_without_a_mask_has_a_plain_softmax():
    encoder = TextEncoder(20, 8, 2, 16, 6, depth=1)
    nodes = operations(nn.Sequential(encoder.embedding, encoder.layers), TOKENS)
    assert of(nodes, aten._softmax)
    assert not [node for node in nodes if "isinf" in str(node.target) or node.target is aten.where.self]
