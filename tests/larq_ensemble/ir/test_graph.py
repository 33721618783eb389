"""Reading and changing a graph."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.ir.graph import Graph, Module, Operator, Tensor
from larq_ensemble.ir.schema import enum, options

from ...builder import Builder, names, normal, run


def chain() -> tuple[Module, list[Tensor]]:
    """`relu(-x) + x`."""
    build = Builder()
    x = build.input("image", 1, 3)
    negated = build.op("NEG", x)
    positive = build.op("RELU", negated)
    total = build.op("ADD", positive, x)
    return build.module(logits=total), [x, negated, positive, total]


def test_who_produces_and_who_consumes() -> None:
    module, (x, negated, positive, total) = chain()
    graph = module.graph
    neg, relu, add = graph.operators
    assert graph.producer(x) is None
    assert graph.producer(None) is None
    assert graph.producer(negated) is neg
    assert graph.producer(negated, "RELU") is None
    assert graph.consumers(x) == [neg, add]
    assert (graph.uses(x), graph.uses(positive), graph.uses(total)) == (2, 1, 1)
    assert graph.find("RELU") == [relu]
    assert graph.of_image() == {x, negated, positive, total}
    assert graph.computed_from([positive]) == {positive, total}
    assert (graph.input("image"), graph.input("member")) == (x, None)


def test_an_operand_that_is_read_twice_counts_twice() -> None:
    x, y = Tensor((3,), "float32"), Tensor((3,), "float32")
    square = Operator("MUL", (x, x), (y,))
    graph = Graph([x, y], [square], [x], [y])
    assert graph.consumers(x) == [square, square]
    assert graph.uses(x) == 2


def test_links_follow_each_change() -> None:
    module, (x, negated, positive, total) = chain()
    graph = module.graph
    neg, relu, add = graph.operators
    graph.replace_uses(positive, negated)
    assert add.inputs == (negated, x)
    assert (graph.consumers(positive), graph.consumers(negated)) == ([], [relu, add])
    graph.erase(relu)
    assert graph.producer(positive) is None
    graph.insert(Operator("NEG", (negated,), (positive,)), after=neg)
    assert names(graph) == ["NEG", "NEG", "ADD"]
    graph.rewrite(add, inputs=[positive, x])
    assert graph.consumers(positive) == [add]
    graph.replace_uses(total, positive)
    assert graph.outputs == [positive]
    assert graph.signature is not None
    assert graph.signature.outputs == {"logits": positive}
    graph.eliminate_dead_code()
    assert names(graph) == ["NEG", "NEG"]
    assert graph.tensors == [x, negated, positive]
    np.testing.assert_array_equal(run(module, image=normal(1, 3))["logits"], normal(1, 3))


def test_a_new_name_resets_the_options() -> None:
    _, (x, _, _, total) = chain()
    op = Operator("ADD", (x, x), (total,), options("AddOptions"), b"custom", version=2)
    graph = Graph([x, total], [op], [x], [total])
    graph.rewrite(op, name="PRELU")
    assert (op.options, op.custom_options, op.version) == (None, None, 1)
    graph.rewrite(op, name="GATHER", options=options("GatherOptions", axis=1))
    assert op.options.axis == 1


def test_a_loop_over_operators_sees_them_as_they_were() -> None:
    module, _ = chain()
    seen = []
    for op in module.graph.operators:
        seen.append(op.name)
        module.graph.erase(op)
    assert seen == ["NEG", "RELU", "ADD"]
    assert not module.graph.operators


def test_rebuild_places_helpers_before_what_reads_them() -> None:
    x, unused, factor, scaled, y = (Tensor((3,), "float32") for _ in range(5))
    helpers = [Operator("EXP", (x,), (unused,)), Operator("NEG", (x,), (factor,))]
    relu, product = Operator("RELU", (x,), (scaled,)), Operator("MUL", (scaled, factor), (y,))
    graph = Graph([x, unused, factor, scaled, y], [], [x], [y])
    graph.rebuild([relu, product], helpers)
    assert names(graph) == ["RELU", "NEG", "MUL"]
    graph.rebuild([product, relu, helpers[1]])
    assert names(graph) == ["RELU", "NEG", "MUL"]


def test_a_copy_has_operators_of_its_own() -> None:
    module, (x, negated, positive, _) = chain()
    other = Tensor.constant(np.ones((1, 3), np.float32))
    copy = module.graph.copy(lambda tensor: other if tensor is positive else tensor)
    assert copy.operators[2].inputs == (other, x)
    assert module.graph.operators[2].inputs == (positive, x)
    assert copy.tensors == [x, negated, other, module.graph.tensors[3]]
    copy.signature.key = "copy"
    assert module.graph.signature.key == "serving_default"


def test_constants() -> None:
    values = np.arange(6, dtype=np.int8).reshape(2, 3)
    tensor = Tensor.constant(values)
    assert (tensor.shape, tensor.dtype, tensor.size) == ((2, 3), "int8", 6)
    np.testing.assert_array_equal(tensor.values, values)
    tensor.set_values(np.float16([0.5, 0.5]))
    assert (tensor.shape, tensor.dtype) == ((2,), "float16")
    assert tensor.is_constant(0.5)
    assert not tensor.is_constant([0.5, 1])
    computed = Tensor((2,), "float32")
    assert not computed.is_constant(0)
    with pytest.raises(ValueError, match="no constant"):
        computed.values  # noqa: B018


def test_operator_codes_keep_their_order() -> None:
    module, _ = chain()
    module.update_operator_codes()
    assert module.operator_codes == [("NEG", 1), ("RELU", 1), ("ADD", 1)]
    neg, relu, _ = module.graph.operators
    module.graph.rewrite(neg, name="ABS")
    module.graph.rewrite(relu, version=2)
    module.update_operator_codes()
    assert module.operator_codes == [("ADD", 1), ("ABS", 1), ("RELU", 2)]


def test_several_graphs() -> None:
    module, _ = chain()
    module.graphs.append(module.graph.copy())
    with pytest.raises(ValueError, match="too many"):
        _ = module.graph


def test_options_by_name() -> None:
    assert options("AddOptions", fusedActivationFunction=1).fusedActivationFunction == 1
    with pytest.raises(TypeError, match="AddOptions has no field stride"):
        options("AddOptions", stride=2)
    assert enum("TensorType")["INT32"] == 2
