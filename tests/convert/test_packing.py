"""Packing makes files smaller and changes not one bit of what they compute."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.convert.flatbuffer import operator_names, read_model, schema, write_model
from larq_ensemble.convert.lce import convert_function
from larq_ensemble.convert.member_graph import MemberGraph
from larq_ensemble.convert.packing import (
    drop_names,
    drop_unread,
    fuse_prelu,
    pack_signs,
    share,
    share_buffers,
    share_tables,
    simplify,
)
from larq_ensemble.keras import tf
from larq_ensemble.runtime.lce import load_extension, load_model

from .conftest import MEAN, STD, pixels, small_ensemble


@pytest.fixture(scope="module")
def raw() -> bytes:
    """What LCE's converter writes for two members."""
    graph = MemberGraph(small_ensemble(2), mean=MEAN, std=STD)
    return convert_function(graph.signature, graph.shared_variables)


def run(data: bytes, images: np.ndarray) -> np.ndarray:
    """Outputs of both members, with inputs placed by their shapes."""
    interpreter = load_extension().LiteInterpreter(data, 1, False, False, False)
    member_first = interpreter.input_shapes[0] == (1,)
    outputs = []
    for image in images.astype(np.float32):
        for member in range(2):
            inputs = [np.array([member], np.int32), image[np.newaxis]]
            outputs.append(interpreter.predict(inputs if member_first else inputs[::-1])[0])
    return np.concatenate(outputs)


def test_every_step_keeps_every_bit_and_saves_bytes(raw: bytes) -> None:
    images = pixels(5, (16, 16, 3))
    expected = run(raw, images)
    assert np.unique(expected, axis=0).shape == expected.shape
    model = read_model(raw)
    size = len(raw)
    for step in (fuse_prelu, drop_unread, drop_names, share_buffers, share_tables):
        step(model)
        packed = write_model(model)
        assert len(packed) < size, step.__name__
        size = len(packed)
        assert run(packed, images).tobytes() == expected.tobytes(), step.__name__


def test_nothing_is_stored_twice(raw: bytes) -> None:
    model = read_model(raw)
    simplify(model)
    share(model)
    packed = write_model(model)
    again = read_model(packed)
    contents = [buffer.data.tobytes() for buffer in again.buffers if buffer.data is not None]
    assert len(contents) == len(set(contents))
    large = [content for content in contents if len(content) >= 64]
    assert all(packed.count(content) == 1 for content in large)
    options = {op.customOptions.tobytes() for op in again.subgraphs[0].operators
               if op.customOptions is not None and op.customOptions.size}  # fmt: skip
    assert all(packed.count(option) == 1 for option in options)
    assert all(tensor.name is None for tensor in again.subgraphs[0].tensors)


def test_no_tensor_becomes_dynamic(raw: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """XNNPACK, here only to ask, refuses a graph with one tensor whose shape is computed."""
    model = read_model(raw)
    simplify(model)
    share(model)
    load_extension().LiteInterpreter(write_model(model), 1, False, True, True)
    said = capfd.readouterr().err
    assert "XNNPACK delegate" in said
    assert "dynamic" not in said


def test_the_signature_still_names_inputs_and_outputs(raw: bytes) -> None:
    model = read_model(raw)
    simplify(model)
    share(model)
    again = read_model(write_model(model))
    (signature,) = again.signatureDefs
    tensors = again.subgraphs[0].tensors
    shapes = {
        entry.name: tensors[entry.tensorIndex].shape.tolist()
        for entry in (*signature.inputs, *signature.outputs)
    }
    assert shapes == {b"image": [1, 16, 16, 3], b"member": [1], b"logits": [1, 7]}


def converted_function(function) -> bytes:
    spec = tf.TensorSpec([1, 4, 4, 3], tf.float32, name="x")
    alpha = tf.TensorSpec([3], tf.float32, name="alpha")
    return convert_function(tf.function(function, input_signature=[spec, alpha]), [])


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
def test_only_the_prelu_pattern_is_fused(function, fused: bool) -> None:
    raw = converted_function(function)
    model = read_model(raw)
    simplify(model)
    share(model)
    packed = write_model(model)
    assert ("PRELU" in operator_names(read_model(packed))) == fused
    draw = np.random.default_rng(0)
    by_size = {48: draw.normal(size=(1, 4, 4, 3)), 3: draw.normal(size=3)}
    outputs = []
    for data in (raw, packed):
        interpreter = load_extension().LiteInterpreter(data, 1, False, False, False)
        inputs = [
            by_size[int(np.prod(shape))].astype(np.float32) for shape in interpreter.input_shapes
        ]
        outputs.append(interpreter.predict(inputs))
    for before, after in zip(*outputs, strict=True):
        # Equal but for the sign of a zero: -0.0 + 0.0 = 0.0.
        np.testing.assert_array_equal(before + 0.0, after + 0.0)


@pytest.mark.parametrize(
    ("values", "packed"), [([-1, 1], True), ([-1, 0, 1], False), ([-128, 1], False)]
)
def test_tables_of_signs_become_bits(values: list[int], packed: bool) -> None:
    table = np.random.default_rng(0).choice(values, (2, 3, 70)).astype(np.int8)
    raw = convert_function(
        tf.function(
            lambda x, member: {"y": x * tf.cast(tf.gather(table, member[0]), tf.float32)},
            input_signature=[tf.TensorSpec([1, 70]), tf.TensorSpec([1], tf.int32)],
        ),
        [],
    )
    model = read_model(raw)
    pack_signs(model)
    drop_unread(model)
    after = write_model(model)
    assert ("LceDequantize" in operator_names(read_model(after))) == packed
    tensors = read_model(after).subgraphs[0].tensors
    assert ([2, 3, 3] in [tensor.shape.tolist() for tensor in tensors]) == packed
    x = np.linspace(1, 2, 70, dtype=np.float32)[np.newaxis]
    interpreter = load_extension().LiteInterpreter(after, 1, False, False, False)
    for member in (1, 0):
        inputs = [np.array([member], np.int32), x]
        ordered = inputs if interpreter.input_shapes[0] == (1,) else inputs[::-1]
        np.testing.assert_array_equal(interpreter.predict(ordered)[0], x * table[member])


def outputs_of(data: bytes, x: np.ndarray, member: int) -> np.ndarray:
    interpreter = load_model(data, 1, "indirect")
    inputs = [np.array([member], np.int32), x]
    ordered = inputs if interpreter.input_shapes[0] == (1,) else inputs[::-1]
    return interpreter.predict(ordered)[0]


def test_hidden_constants_are_revealed() -> None:
    """Looked up by min(member, 0), so that the converter leaves it int8; a constant afterwards."""
    table = np.random.default_rng(0).integers(-127, 128, (1, 5, 70)).astype(np.int8)
    raw = convert_function(
        tf.function(
            lambda x, member: {
                "y": x * tf.cast(tf.gather(table, tf.minimum(member[0], 0)), tf.float32)
            },
            input_signature=[tf.TensorSpec([1, 70]), tf.TensorSpec([1], tf.int32)],
        ),
        [],
    )
    model = read_model(raw)
    simplify(model)
    share(model)
    after = write_model(model)
    assert operator_names(read_model(after)) == ["CAST", "MUL"]
    assert len(after) < len(raw)
    x = np.linspace(-1, 1, 70, dtype=np.float32)[np.newaxis]
    for member in (0, 3):
        assert outputs_of(after, x, member).tobytes() == outputs_of(raw, x, member).tobytes()
        np.testing.assert_array_equal(outputs_of(after, x, member), x * table[0])


def test_half_floats_are_stored_as_such() -> None:
    draw = np.random.default_rng(0)
    halves = draw.normal(size=(2, 400)).astype(np.float16).astype(np.float32)
    others = draw.normal(size=400).astype(np.float32)
    few = np.float32(0.5) * np.ones(3, np.float32)
    raw = convert_function(
        tf.function(
            lambda x: {"y": (x * halves[0] + others) * halves[1], "z": x[:, :3] * few},
            input_signature=[tf.TensorSpec([1, 400])],
        ),
        [],
    )
    model = read_model(raw)
    simplify(model)
    share(model)
    after = write_model(model)
    again = read_model(after)
    float16 = schema().TensorType.FLOAT16
    stored = [tensor for tensor in again.subgraphs[0].tensors if tensor.type == float16]
    assert [tensor.shape.tolist() for tensor in stored] == [[400], [400]]
    assert len(after) < len(raw) - 1000
    x = draw.normal(size=(1, 400)).astype(np.float32)
    for before, now in zip(
        *(load_model(data, 1, "indirect").predict([x]) for data in (raw, after)), strict=True
    ):
        assert before.tobytes() == now.tobytes()


def test_unread_operators_are_dropped() -> None:
    model = read_model(converted_function(lambda x, a: {"y": tf.nn.relu(x) * a}))
    graph = model.subgraphs[0]
    used = len(graph.tensors)
    graph.tensors.append(schema().TensorT())
    extra = schema().OperatorT()
    extra.inputs, extra.outputs = np.array([0], np.int32), np.array([used], np.int32)
    graph.operators.append(extra)
    drop_unread(model)
    assert extra not in graph.operators
    assert len(graph.tensors) == used
