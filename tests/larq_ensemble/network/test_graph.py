"""The roles of layers, and that tracing an architecture gives the graph of its Keras model."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from larq_ensemble.models import build_model, layer_graph
from larq_ensemble.models.classifier import with_head_bias_apart
from larq_ensemble.network.architectures import MODELS, trace_model
from larq_ensemble.network.graph import Content, Kind, LayerGraph, LayerNode, Role, Stored


def conv(name: str, *inputs: str, kernel: int = 3) -> LayerNode:
    return LayerNode(name, Kind.CONV, inputs, kernel_size=(kernel, kernel))


def other(name: str, *inputs: str, kind: Kind = Kind.OTHER) -> LayerNode:
    return LayerNode(name, kind, inputs)


def roles(*layers: LayerNode) -> dict[str, Role]:
    """Roles of all layers that have one, but for a linear layer at the end."""
    end = other("classes", layers[-1].name, kind=Kind.DENSE)
    found = LayerGraph([other("in", kind=Kind.INPUT), *layers, end]).roles
    assert list(found) == ["in", *(layer.name for layer in layers), "classes"]
    assert found.pop("classes") is Role.HEAD
    return {name: role for name, role in found.items() if role is not Role.OTHER}


def test_the_head_is_the_last_layer_with_a_kernel() -> None:
    """Larq's tutorials end in a dense layer and a batch norm, Network in Network in a 1x1 one."""
    first = (conv("first", "in"), other("hidden", "first", kind=Kind.DENSE))
    for head in (conv("head", "hidden", kernel=1), other("head", "hidden", kind=Kind.DENSE)):
        end = (other("norm", "head", kind=Kind.NORM), other("pool", "norm"))
        found = LayerGraph([other("in", kind=Kind.INPUT), *first, head, *end]).roles
        assert found == {
            "in": Role.OTHER,
            "first": Role.STEM,
            "hidden": Role.OTHER,
            "head": Role.HEAD,
            "norm": Role.OTHER,
            "pool": Role.OTHER,
        }


def test_a_plain_network() -> None:
    assert roles(
        conv("first", "in"),
        other("norm", "first", kind=Kind.NORM),
        conv("second", "norm"),
        other("hidden", "second", kind=Kind.DENSE),
    ) == {"first": Role.STEM, "second": Role.CONV}


@pytest.mark.parametrize("swapped", [False, True])
def test_a_block_with_a_convolution_in_its_shortcut(swapped: bool) -> None:
    branches = ("norm", "short") if swapped else ("short", "norm")
    assert roles(
        conv("stem", "in"),
        conv("a", "stem"),
        conv("b", "a"),
        other("norm", "b"),
        conv("short", "stem", kernel=1),
        other("add", *branches, kind=Kind.MERGE),
        conv("c", "add"),
    ) == {
        "stem": Role.STEM,
        "a": Role.CONV,
        "b": Role.BLOCK_END,
        "short": Role.SHORTCUT,
        "c": Role.CONV,
    }


@pytest.mark.parametrize("swapped", [False, True])
def test_a_block_with_an_identity_shortcut(swapped: bool) -> None:
    branches = ("stem", "b") if swapped else ("b", "stem")
    assert roles(
        conv("stem", "in"),
        conv("a", "stem"),
        conv("b", "a"),
        other("add", *branches, kind=Kind.MERGE),
        conv("c", "add"),
        other("add_2", "c", "add", kind=Kind.MERGE),
    ) == {"stem": Role.STEM, "a": Role.CONV, "b": Role.BLOCK_END, "c": Role.BLOCK_END}


def test_one_convolution_in_each_branch() -> None:
    """As in Bi-Real Net: the 1x1 convolution is the shortcut, also as the first of the two."""
    assert roles(
        conv("stem", "in"),
        other("pool", "stem"),
        conv("short", "pool", kernel=1),
        conv("main", "stem"),
        other("add", "main", "short", kind=Kind.MERGE),
    ) == {"stem": Role.STEM, "short": Role.SHORTCUT, "main": Role.BLOCK_END}


def test_a_larger_convolution_is_no_shortcut() -> None:
    assert roles(
        conv("stem", "in"),
        conv("a", "stem"),
        conv("b", "a"),
        conv("aside", "stem"),
        other("add", "aside", "b", kind=Kind.MERGE),
    ) == {"stem": Role.STEM, "a": Role.CONV, "b": Role.BLOCK_END, "aside": Role.CONV}


def test_a_bottleneck_keeps_its_1x1_convolutions() -> None:
    assert roles(
        conv("stem", "in"),
        conv("reduce", "stem", kernel=1),
        conv("middle", "reduce"),
        conv("expand", "middle", kernel=1),
        other("add", "expand", "stem", kind=Kind.MERGE),
    ) == {"stem": Role.STEM, "reduce": Role.CONV, "middle": Role.CONV, "expand": Role.BLOCK_END}


def test_a_shortcut_stays_a_shortcut_in_later_blocks() -> None:
    """The first block's shortcut is also on the second block's identity branch."""
    found = roles(
        conv("stem", "in"),
        conv("a", "stem"),
        conv("short", "stem", kernel=1),
        other("add_1", "a", "short", kind=Kind.MERGE),
        conv("b", "add_1"),
        other("add_2", "b", "add_1", kind=Kind.MERGE),
    )
    assert found["short"] is Role.SHORTCUT
    assert (found["a"], found["b"]) == (Role.CONV, Role.BLOCK_END)


def test_a_shortcut_around_each_convolution() -> None:
    """Bi-Real Net: two additions make a block; a convolution on a shortcut begins another."""
    layers = [conv("stem", "in")]
    for index in range(6):
        before = layers[-1].name
        layers.append(conv(f"c{index}", before))
        shortcut = before
        if index == 3:
            layers.append(conv("short", before, kernel=1))
            shortcut = "short"
        layers.append(other(f"add{index}", f"c{index}", shortcut, kind=Kind.MERGE))
    assert roles(*layers) == {
        "stem": Role.STEM,
        "c0": Role.CONV,
        "c1": Role.BLOCK_END,
        "c2": Role.BLOCK_END,  # Left over.
        "c3": Role.CONV,
        "short": Role.SHORTCUT,
        "c4": Role.BLOCK_END,
        "c5": Role.BLOCK_END,  # Left over.
    }


def test_a_binarized_convolution_in_a_shortcut_is_downsampling() -> None:
    binary = LayerNode(
        "short", Kind.CONV, ("stem",), (Stored(Content.BINARY_FILTER, 9, 1),), (1, 1)
    )
    assert roles(
        conv("stem", "in"),
        conv("a", "stem"),
        binary,
        other("add", "a", "short", kind=Kind.MERGE),
    ) == {"stem": Role.STEM, "a": Role.BLOCK_END, "short": Role.DOWNSAMPLING}


def test_a_layer_that_is_called_on_its_own_output() -> None:
    """A convolution that is called again on what its normalized output became."""
    assert roles(
        conv("stem", "in"),
        conv("twice", "stem", "norm"),
        other("norm", "twice", kind=Kind.NORM),
    ) == {"stem": Role.STEM, "twice": Role.CONV}


def test_bits_of_a_layer() -> None:
    layer = LayerNode(
        "a",
        Kind.CONV,
        stored=(Stored(Content.BINARY_FILTER, 90, 1), Stored(Content.FILTER_SCALE, 5, 32)),
    )
    assert layer.bits == 250
    assert layer.binary
    assert not conv("b").binary


def test_quantized_layers_that_are_no_convolutions() -> None:
    """Hidden dense layers and layers of one's own; not the head, nor what is real-valued."""

    def stored(name: str, source: str, kind: Kind, *values: Stored) -> LayerNode:
        return LayerNode(name, kind, (source,), values)

    binary, ternary = Stored(Content.BINARY_FILTER, 90, 1), Stored(Content.LINEAR, 90, 2)
    graph = LayerGraph(
        [
            other("in", kind=Kind.INPUT),
            conv("stem", "in"),
            stored("own", "stem", Kind.ACTIVATION, binary, Stored(Content.ACTIVATION, 5, 32)),
            stored("slopes", "own", Kind.ACTIVATION, Stored(Content.ACTIVATION, 5, 32)),
            stored("hidden", "slopes", Kind.DENSE, binary),
            stored("ternary", "hidden", Kind.DENSE, ternary),
            stored("real", "ternary", Kind.DENSE, Stored(Content.LINEAR, 90, 32)),
            stored("last", "real", Kind.DENSE, binary),
        ]
    )
    assert {name: role for name, role in graph.roles.items() if role is not Role.OTHER} == {
        "stem": Role.STEM,
        "own": Role.QUANTIZED,
        "hidden": Role.QUANTIZED,
        "ternary": Role.QUANTIZED,
        "last": Role.HEAD,
    }


# Real-valued ones; the twins of deeper networks repeat the same blocks.
REAL_VALUED = {"resnet20_real", "birealnet18_real", "reactnet10_real", "deploynet9_real"}
REAL_VALUED |= {"resnet20_relu", "deploynet8_relu", "deploynet9_relu"}


NAMES = [name for name, model in MODELS.items() if model.binary or name in REAL_VALUED]


@pytest.mark.parametrize(
    ("name", "revision"), [*((name, 2) for name in NAMES), ("resnet20", 1), ("birealnet18", 1)]
)
def test_the_traced_network_is_the_one_that_keras_builds(name: str, revision: int) -> None:
    """Every layer, its inputs and every count; Keras names the input otherwise."""
    sizes = {"input_shape": (9, 6, 2), "classes": 7, "width": 1 / 16, "revision": revision}
    traced = trace_model(name, **sizes)
    built = layer_graph(build_model(name, **sizes))
    renamed = {
        layer.name: dataclasses.replace(
            layer,
            inputs=tuple("input" if source == "image" else source for source in layer.inputs),
        )
        for layer in built
        if layer.kind is not Kind.INPUT
    }
    expected = {layer.name: layer for layer in traced if layer.kind is not Kind.INPUT}
    assert set(renamed) == set(expected)
    for layer_name, layer in expected.items():
        assert renamed[layer_name].kind is layer.kind, layer_name
        assert sorted(renamed[layer_name].inputs) == sorted(layer.inputs), layer_name
        assert Counter(renamed[layer_name].stored) == Counter(layer.stored), layer_name
        assert renamed[layer_name].kernel_size == layer.kernel_size, layer_name
        assert renamed[layer_name].macs == layer.macs, layer_name
    assert {n: r for n, r in built.roles.items() if n != "image"} == {
        n: r for n, r in traced.roles.items() if n != "input"
    }


def test_a_head_with_its_bias_apart_is_the_one_that_keras_builds(resnet20) -> None:
    apart = layer_graph(with_head_bias_apart(resnet20))
    expected = layer_graph(resnet20).with_head_bias_apart()
    assert apart.layers == expected.layers
    assert apart.roles == expected.roles
    assert apart["linear_bias"].inputs == ("linear",)


def test_what_is_independent_of_a_layer() -> None:
    graph = LayerGraph(
        [
            other("in", kind=Kind.INPUT),
            conv("stem", "in"),
            conv("left", "stem"),
            other("norm", "stem", kind=Kind.NORM),
            other("add", "left", "norm", kind=Kind.MERGE),
        ]
    )
    assert graph.independent_of({"norm"}) == {"in", "stem", "left"}
    assert graph.independent_of({"in"}) == set()
    assert graph.independent_of(()) == {"in", "stem", "left", "norm", "add"}
