"""Only the PReLU pattern is fused, and computes the same."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.convert.frontend.lce import convert_function
from larq_ensemble.convert.passes import dead_code, prelu_fusion
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.graph import Module
from larq_ensemble.keras import tf

from ...builder import Builder, names, normal, run


def pattern(
    *,
    read_elsewhere: bool = False,
    other_input: bool = False,
    fused_relu: bool = False,
    larger_slope: bool = False,
) -> Module:
    """`relu(x) - alpha * relu(-x)`."""
    build = Builder()
    x = build.input("image", 1, 1 if larger_slope else 4, 4, 3)
    alpha = build.input("alpha", *((4, 1, 1) if larger_slope else (3,)))
    shape = (1, 4, 4, 3)
    negated = build.op("NEG", build.op("ADD", x, x) if other_input else x)
    negative = build.op("RELU", negated)
    product = build.op("MUL", alpha, negative, shape=shape)
    relu = build.op("RELU", x)
    difference = build.op("SUB", relu, product, shape=shape, fusedActivationFunction=fused_relu)
    outputs = {"logits": difference}
    return build.module(**outputs, **({"more": negative} if read_elsewhere else {}))


def test_five_operators_become_one() -> None:
    module = pattern()
    inputs = {"image": normal(1, 4, 4, 3), "alpha": np.array([0.25, 2, -1], np.float32)}
    before = run(module, **inputs)["logits"]
    assert prelu_fusion.run(module)["fused_prelus"] == 1
    dead_code.run(module)
    assert names(module.graph) == ["PRELU"]
    x, alpha = inputs["image"], inputs["alpha"]
    np.testing.assert_array_equal(run(module, **inputs)["logits"], np.where(x >= 0, x, alpha * x))
    np.testing.assert_array_equal(run(module, **inputs)["logits"], before + 0.0)


@pytest.mark.parametrize("change", ["read_elsewhere", "other_input", "fused_relu", "larger_slope"])
def test_other_patterns_stay(change: str) -> None:
    """A ReLU behind the PReLU, for example, would be lost."""
    module = pattern(**{change: True})
    before = names(module.graph)
    assert prelu_fusion.run(module)["fused_prelus"] == 0
    assert names(module.graph) == before


@pytest.mark.parametrize(
    ("function", "fused"),
    [
        (lambda x, a: {"y": tf.nn.relu(x) - a * tf.nn.relu(-x)}, True),
        (lambda x, a: {"y": tf.nn.relu(x) - tf.nn.relu(-x) * a}, True),
        (lambda x, a: {"y": a * tf.nn.relu(-x) - tf.nn.relu(x)}, False),
        (lambda x, a: {"y": tf.nn.relu(x + 1) - a * tf.nn.relu(-x)}, False),
        # A part of the pattern that is read elsewhere must stay.
        (lambda x, a: {"y": tf.nn.relu(x) - a * tf.nn.relu(-x), "z": tf.nn.relu(x)}, False),
    ],
)
def test_of_the_converter(function, fused: bool) -> None:
    spec = tf.TensorSpec([1, 4, 4, 3], tf.float32, name="x")
    alpha = tf.TensorSpec([3], tf.float32, name="alpha")
    raw = convert_function(tf.function(function, input_signature=[spec, alpha]), [])
    module, inputs = read(raw), {"x": normal(1, 4, 4, 3), "alpha": normal(3)}
    prelu_fusion.run(module)
    dead_code.run(module)
    assert ("PRELU" in names(module.graph)) == fused
    before, after = (run(each, **inputs) for each in (read(raw), module))
    assert before.keys() == after.keys()
    for name in before:
        # Equal but for the sign of a zero: -0.0 + 0.0 = 0.0.
        np.testing.assert_array_equal(before[name] + 0.0, after[name] + 0.0)
