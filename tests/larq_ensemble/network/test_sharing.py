"""Exactly the documented layers are shared, however they are given."""

from __future__ import annotations

import pytest

from larq_ensemble.ensembles import build_ensemble
from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.keras import keras, lq
from larq_ensemble.models import graph as keras_graph
from larq_ensemble.models import layer_graph
from larq_ensemble.network.architectures import trace_model
from larq_ensemble.network.graph import Role
from larq_ensemble.network.sharing import (
    POLICIES,
    SharingPolicy,
    notes,
    parse_sharing,
    shared_layers,
)

BLOCKS = [f"layer{stage}_{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]
STEM = {"conv1"}
FIRST = {f"{block}_conv1" for block in BLOCKS}
LAST = {f"{block}_conv2" for block in BLOCKS}
SHORTCUTS = {"layer2_0_shortcut_conv", "layer3_0_shortcut_conv"}
LINEAR = {"linear"}

EXPECTED = {
    "fusion": STEM | FIRST | LAST | SHORTCUTS,
    "all_frozen": STEM | FIRST | LAST | SHORTCUTS | LINEAR,
    "c1": FIRST | LAST | SHORTCUTS | LINEAR,
    "c2": STEM | FIRST | LAST,
    "c3": STEM | FIRST | SHORTCUTS,
    "none": set(),
}


@pytest.fixture(scope="module")
def graph():
    return trace_model("resnet20", classes=10)


@pytest.mark.parametrize("name", EXPECTED)
def test_policies_on_resnet20(name: str, graph, resnet20) -> None:
    assert shared_layers(name, graph) == EXPECTED[name]
    assert shared_layers(name, layer_graph(resnet20)) == EXPECTED[name]
    assert shared_layers(POLICIES[name], graph) == EXPECTED[name]


STAGES = (1, 2, 3, 4)


@pytest.mark.parametrize("twin", ["", "_real"])
@pytest.mark.parametrize("name", ["resnet18", "birealnet18", "reactnet10"])
@pytest.mark.parametrize("policy", EXPECTED)
def test_policies_on_other_networks(name: str, twin: str, policy: str) -> None:
    """As on ResNet-20; a block has two convolutions even if each has a shortcut."""
    blocks = (0,) if name == "reactnet10" else (0, 1)
    names = [f"layer{stage}_{block}" for stage in STAGES for block in blocks]
    first, last = ({f"{block}_conv{index}" for block in names} for index in (1, 2))
    shortcuts = {f"layer{stage}_0_shortcut_conv" for stage in STAGES[1:]}
    expected = {
        "fusion": STEM | first | last | shortcuts,
        "all_frozen": STEM | first | last | shortcuts | LINEAR,
        "c1": first | last | shortcuts | LINEAR,
        "c2": STEM | first | last,
        "c3": STEM | first | shortcuts,
        "none": set(),
    }[policy]
    if name + twin == "reactnet10":
        # Its downsampling is binarized, and no policy of the paper shares that.
        expected = expected - shortcuts
    assert shared_layers(policy, trace_model(name + twin, classes=10)) == expected


def test_downsampling_can_be_shared_on_purpose() -> None:
    roles = POLICIES["fusion"].roles | {Role.DOWNSAMPLING}
    policy = SharingPolicy("everything", roles)
    graph = trace_model("reactnet10", classes=10)
    assert shared_layers(policy, graph) - shared_layers("fusion", graph) == {
        f"layer{stage}_0_shortcut_conv" for stage in STAGES[1:]
    }


def test_notes_on_policies(graph) -> None:
    """ReActNet has no real-valued shortcuts, but binarized ones of 1x1 weights."""
    reactnet = trace_model("reactnet10", classes=10)
    for policy in POLICIES:
        assert notes(policy, graph) == []
        (*equal, unshared) = notes(policy, reactnet) or [""]
        same = "`sharing` 'c2' shares the same layers as 'fusion' in this network."
        assert equal == ([same] if policy == "c2" else [])
        assert ("binary weights of shortcuts" in unshared) == (policy != "none")
    assert "'layer2_0_shortcut_conv' (8,192 bits), 'layer3_0" in notes("fusion", reactnet)[0]
    own = SharingPolicy("own", POLICIES["fusion"].roles | {Role.DOWNSAMPLING})
    assert notes(own, reactnet) == notes([".*conv.*"], reactnet) == []
    assert "same layers as 'fusion'" in notes(own, graph)[0]


def dense_net() -> keras.Model:
    """Concatenates what two binary convolutions add; a 1x1 convolution stands between."""
    binary = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign", "padding": "same"}
    image = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(8, 3, name="stem")(image)
    for name in ("a", "b"):
        x = keras.layers.Concatenate()([x, lq.layers.QuantConv2D(4, 3, name=name, **binary)(x)])
    x = keras.layers.Conv2D(8, 1, name="transition")(x)
    x = lq.layers.QuantDense(6, name="hidden", kernel_quantizer="ste_sign")(
        keras.layers.Flatten()(x)
    )
    return keras.Model(image, lq.layers.QuantDense(3, name="head", kernel_quantizer="ste_sign")(x))


def test_networks_that_concatenate() -> None:
    """As in Bi-Real Net two convolutions are a block, which `c3` leaves the end of to members."""
    model = dense_net()
    shared = {name: keras_graph.shared_layers(name, model) for name in POLICIES}
    everything = {"stem", "a", "b", "transition", "hidden"}
    assert shared["fusion"] == shared["c2"] == everything
    assert shared["all_frozen"] == everything | {"head"}
    assert shared["c3"] == everything - {"b"}
    with pytest.warns(UserWarning, match="`sharing` 'c2' shares the same layers as 'fusion'"):
        build_ensemble(model, 2, sharing="c2")


def test_every_policy_is_tested() -> None:
    assert set(POLICIES) == set(EXPECTED)


def test_a_custom_policy(graph) -> None:
    policy = SharingPolicy("heads", frozenset({Role.HEAD}))
    assert shared_layers(policy, graph) == LINEAR


def test_names_and_expressions_match_whole_names(graph) -> None:
    assert shared_layers(["conv1"], graph) == STEM
    assert shared_layers([".*_conv1", "linear"], graph) == FIRST | LINEAR
    assert shared_layers((r"layer\d_\d_conv[12]",), graph) == FIRST | LAST
    assert shared_layers([], graph) == set()


def test_only_layers_with_weights_are_shared(graph) -> None:
    names = shared_layers([".*"], graph)
    assert EXPECTED["all_frozen"] < names
    assert not names & {"input", "pool", "dropout", "layer1_0_add"}


def test_a_predicate_on_keras_layers(graph, resnet20) -> None:
    def is_binary(layer: keras.layers.Layer) -> bool:
        return isinstance(layer, lq.layers.QuantConv2D)

    assert keras_graph.shared_layers(is_binary, resnet20) == FIRST | LAST
    assert keras_graph.shared_layers("c3", resnet20) == EXPECTED["c3"]
    with pytest.raises(EnsembleError, match="predicate on Keras layers, which needs a model"):
        shared_layers(is_binary, graph)


def test_bad_expressions_are_refused(graph) -> None:
    with pytest.raises(EnsembleError, match=r"'convX', which matches no layer.*layer1_0_conv1"):
        shared_layers(["conv1", "convX"], graph)
    with pytest.raises(EnsembleError, match="'dropout', which matches no layer with weights"):
        shared_layers(["dropout"], graph)
    with pytest.raises(EnsembleError, match=r"'\(', which is no regular expression"):
        shared_layers(["("], graph)


def test_unknown_policies_list_the_known_ones(graph) -> None:
    with pytest.raises(UnknownNameError) as error:
        shared_layers("fussion", graph)
    assert str(error.value) == (
        "Unknown sharing 'fussion'. Known: all_frozen, c1, c2, c3, fusion, none."
    )


def test_parsing_sharing_of_the_command_line() -> None:
    assert parse_sharing("c1") == "c1"
    assert parse_sharing("re:.*_conv[12]") == [".*_conv[12]"]
