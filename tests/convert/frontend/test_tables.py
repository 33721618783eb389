"""Members' values in fewer bytes: int8 heads, compact vectors, norms before signs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.convert.frontend import tables
from larq_ensemble.convert.frontend.tables import COMPACT_BITS, compacted
from larq_ensemble.convert.inspection import inspect_file
from larq_ensemble.ensembles.building import build_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.keras import keras, lq
from larq_ensemble.runtime import EnsembleInterpreter

from ..conftest import (
    Converted,
    SmallCase,
    converted,
    pixels,
    randomized,
    shared_backbone,
    small_ensemble,
)


def constants(path: Path, dtype: str) -> list[tuple[int, ...]]:
    """Shapes of the file's constants of a type, e.g. `"int8"`."""
    return [
        tensor.shape
        for tensor in read(path.read_bytes()).graphs[0].tensors
        if tensor.dtype == dtype and tensor.data is not None
    ]


def rounded_to_int8(kernel: np.ndarray) -> np.ndarray:
    """A linear layer's kernel `[inputs, classes]` with 255 values per class."""
    step = np.abs(kernel).max(axis=0) / 127
    return np.round(kernel / step) * step


@pytest.mark.parametrize("sharing", ["fusion", "all_frozen"])
def test_int8_heads(sharing: str, tmp_path: Path) -> None:
    """The file computes what Keras does with linear layers of rounded weights."""
    model = small_ensemble(2, sharing=sharing)
    own = sharing == "fusion"
    case = converted(model, tmp_path, heads="int8")
    for name in ["member_0_linear", "member_1_linear"] if own else ["linear"]:
        kernel, *bias = model.get_layer(name).get_weights()
        # What is rounded must be seen: the plain kernel gives other logits.
        model.get_layer(name).set_weights([rounded_to_int8(kernel), *bias])
    images = pixels(40, (16, 16, 3))
    ours = EnsembleInterpreter(case.path).predict_logits(images)
    close = np.isclose(ours, np.stack(case.logits(images)), rtol=1e-3, atol=1e-3).all(axis=-1)
    assert close.mean() > 0.7
    assert constants(case.path, "int8") == [(2, 7, 16) if own else (7, 16)]
    assert inspect_file(case.path).metadata["heads"] == "int8"


def test_int8_heads_need_floats(tmp_path: Path) -> None:
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization(name="norm")(inputs)
    x = keras.layers.Flatten()(x)
    logits = lq.layers.QuantDense(4, kernel_quantizer="ste_sign", name="logits")(x)
    model = build_ensemble(keras.Model(inputs, logits), 2, sharing=["logits"])
    with pytest.raises(EnsembleError, match=r"'logits' \(QuantDense\).*heads=\"float32\""):
        converted(model, tmp_path, heads="int8")


def test_compacted_values_are_within_half_a_step() -> None:
    draw = np.random.default_rng(0)
    middles = draw.normal(0, 10, 200)
    table = (middles + draw.normal(0, 0.2, (5, 200))).astype(np.float32)
    table[:, 3] = 0.1
    middle, step, signs = compacted(table)
    assert signs.shape == (5, COMPACT_BITS, 200)
    assert set(np.unique(signs)) == {-1, 1}
    total = np.einsum("mkc,k->mc", signs, 2.0 ** np.arange(COMPACT_BITS))
    values = middle.astype(np.float64) + step * total
    # Two levels differ by two steps; half floats round the middle to 11 bits.
    half_a_level = np.ptp(table, axis=0) / (2**COMPACT_BITS - 1) / 2
    rounding = np.abs(middle.astype(np.float64)) * 2**-11 + 1e-3 * np.ptp(table, axis=0)
    assert (np.abs(values - table) <= half_a_level + rounding).all()
    assert np.abs(values[:, 3] - 0.1).max() <= 0.1 * 2**-11


def test_compact_refuses_what_no_half_float_holds() -> None:
    with pytest.raises(EnsembleError, match=r"70000.*precision=.float32"):
        compacted(np.array([[1.0, 7e4], [2.0, 1.0]]))


@pytest.mark.parametrize("members", [1, 3])
def test_compact(
    members: int, small_case: SmallCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compact vectors change the logits by as little as their steps are small."""
    plain = small_case(members)
    images = pixels(30, (16, 16, 3))
    expected = EnsembleInterpreter(plain.path).predict_logits(images)
    monkeypatch.setattr(tables, "COMPACT_BITS", 12)
    case = converted(plain.model, tmp_path, precision="compact")
    ours = EnsembleInterpreter(case.path).predict_logits(images)
    assert not np.array_equal(ours, expected)
    close = np.isclose(ours, expected, rtol=0.03, atol=0.03).all(axis=-1)
    assert close.mean() > 0.6
    assert (ours.argmax(-1) == expected.argmax(-1)).mean() > 0.9


def test_compact_tables_are_bits_and_half_floats(small_case: SmallCase) -> None:
    case = small_case(precision="compact", heads="int8")
    metadata = inspect_file(case.path).metadata
    assert metadata["precision"] == "compact"
    columns = sum(metadata["columns"].values())
    # Tables of one row per member, as words of 32 bits; middle and step are common to all.
    assert (3, COMPACT_BITS, -(-columns // 32)) in constants(case.path, "int32")
    assert constants(case.path, "float16") == [(columns,), (columns,)]
    # int8 weights, but their scales are vectors like biases.
    assert metadata["columns"]["heads"] == 7 + 7
    parts = metadata["theory_parts"]
    assert parts["member_heads"] == 3 * (16 * 7 + (7 + 7) * COMPACT_BITS // 8)
    assert parts["shared_heads"] == (7 + 7) * (2 + 2)


def norms_and_scales(case: Converted) -> tuple[int, int]:
    """How many ADD and MUL with looked-up rows the file has."""
    graph = read(case.path.read_bytes()).graphs[0]
    (split,) = graph.find("SPLIT_V")
    rows = set(split.outputs)
    counts = {"ADD": 0, "MUL": 0}
    for op in graph.operators:
        operands = rows.intersection(op.operands)
        if operands and op.name in ("RESHAPE", "TILE"):  # rows of several pixels
            rows.update(op.outputs)
        elif operands and op.name in counts:
            if operands.issuperset(op.operands):  # two rows are added up
                rows.update(op.outputs)
            else:
                counts[op.name] += 1
    return counts["ADD"], counts["MUL"]


def test_norms_before_signs_have_no_scale(tmp_path: Path) -> None:
    """Two of the three norms of a block feed only a binary convolution's sign."""
    model = randomized(build_ensemble(shared_backbone(), 2))
    for weight in model.weights:
        if "gamma" in weight.name:
            weight.assign(np.abs(weight.numpy()) + 0.1)
    case = converted(model, tmp_path)
    # Stem, shortcut, two blocks of three norms; the linear layer's bias is an ADD too. The offset
    # of the shortcut meets that of what it is added to.
    assert norms_and_scales(case) == (2 + 2 * 3 + 1 - 1, 2 + 2 * 1)
    images = pixels(40, (16, 16, 3))
    ours = EnsembleInterpreter(case.path).predict_logits(images)
    expected = np.stack(case.logits(images))
    assert (ours.argmax(-1) == expected.argmax(-1)).mean() >= 0.95
    assert np.isclose(ours, expected, rtol=1e-3, atol=1e-3).all(axis=-1).mean() > 0.7
    # In one member one channel's scale is negative, which turns its sign around.
    norm = model.get_layer("member_1_layer1_0_bn2")
    gamma = norm.gamma.numpy()
    gamma[5] *= -1
    norm.gamma.assign(gamma)
    case = converted(model, tmp_path)
    assert norms_and_scales(case) == (8, 5)
    ours = EnsembleInterpreter(case.path).predict_logits(images)
    assert (ours.argmax(-1) == np.stack(case.logits(images)).argmax(-1)).mean() >= 0.95
