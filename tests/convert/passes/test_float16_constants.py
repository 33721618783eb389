"""Large constants that are half floats are stored as such."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.convert.frontend.lce import convert_function
from larq_ensemble.convert.passes import float16_constants
from larq_ensemble.convert.pipeline import run_pipeline
from larq_ensemble.convert.targets.lce import write
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.keras import tf

from ...builder import Builder, names, normal, run

HALVES = normal(400).astype(np.float16).astype(np.float32)


@pytest.mark.parametrize(
    ("values", "consumer", "stored_as"),
    [
        (HALVES, "MUL", "float16"),
        (HALVES, "ADD", "float16"),
        (HALVES, "SUB", "float32"),
        (normal(400), "MUL", "float32"),  # more digits
        (1e6 * HALVES, "MUL", "float32"),  # too large
        (HALVES[:100], "MUL", "float32"),  # 400 bytes
    ],
)
def test_what_is_stored(values: np.ndarray, consumer: str, stored_as: str) -> None:
    build, n = Builder(), len(values)
    x = build.input("image", 1, n)
    module = build.module(logits=build.op(consumer, x, build.constant(values)))
    image = normal(1, n, seed=1)
    before = run(module, image=image)["logits"]
    assert float16_constants.run(module)["float16_constants"] == (stored_as == "float16")
    assert {t.dtype for t in module.graph.tensors if t.data is not None} == {stored_as}
    assert ("DEQUANTIZE" in names(module.graph)) == (stored_as == "float16")
    assert run(module, image=image)["logits"].tobytes() == before.tobytes()


def test_of_the_converter() -> None:
    halves, others = np.stack([HALVES, HALVES[::-1]]), normal(400)
    few = np.float32(0.5) * np.ones(3, np.float32)
    raw = convert_function(
        tf.function(
            lambda image: {"y": (image * halves[0] + others) * halves[1], "z": image[:, :3] * few},
            input_signature=[tf.TensorSpec([1, 400], name="image")],
        ),
        [],
    )
    module = read(raw)
    run_pipeline(module)
    stored = [tensor for tensor in module.graph.tensors if tensor.dtype == "float16"]
    assert [tensor.shape for tensor in stored] == [(400,), (400,)]
    assert len(write(module)) < len(raw) - 1000
    image = normal(1, 400, seed=1)
    before, now = (run(each, image=image) for each in (read(raw), module))
    assert {name: y.tobytes() for name, y in before.items()} == {
        name: y.tobytes() for name, y in now.items()
    }
