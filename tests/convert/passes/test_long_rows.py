"""Rows of several pixels change no bit."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.convert.passes import long_rows
from larq_ensemble.convert.passes.sign_packing import bit_packed
from larq_ensemble.ir.graph import Module
from larq_ensemble.ir.verifier import verify

from ...builder import Builder, names, normal, run


def module_of(size: int, channels: int) -> Module:
    """Offset, PReLU, sign."""
    build, words = Builder(), -(-channels // 32)
    x = build.input("image", 1, size, size, channels)
    y = build.op("ADD", x, build.constant(normal(channels)))
    y = build.op("PRELU", y, build.constant(normal(1, 1, channels, seed=1)))
    bits = build.op("LceQuantize", y, shape=(1, size, size, words), dtype="int32", custom=b"")
    return build.module(bits=bits, logits=y)


@pytest.mark.parametrize(
    ("size", "channels", "counts"),
    [
        (16, 8, {"long_rows": 2, "narrow_signs": 1}),
        (16, 16, {"long_rows": 2, "narrow_signs": 1}),
        (12, 16, {"long_rows": 2, "narrow_signs": 1}),
        (16, 64, {"long_rows": 2}),
        (16, 5, {"long_rows": 2}),  # fills no integer
        (11, 16, {}),  # 121 pixels
        (16, 256, {}),  # as long as a row
    ],
)
def test_every_bit_stays(size: int, channels: int, counts: dict[str, int]) -> None:
    module = module_of(size, channels)
    image = normal(1, size, size, channels, seed=2)
    before = run(module, image=image)
    names_before = names(module.graph)
    assert long_rows.run(module) == counts
    verify(module, no_dead_code=True)
    if not counts:
        assert names(module.graph) == names_before
    rows = [op.outputs[0].shape[-1] for op in module.graph.find("ADD")]
    assert (rows == [channels]) == (not counts)
    assert ("BITCAST" in names(module.graph)) == ("narrow_signs" in counts)
    after = run(module, image=image)
    assert {name: y.tobytes() for name, y in after.items()} == {
        name: y.tobytes() for name, y in before.items()
    }
    x = image + normal(channels)
    expected = np.where(x >= 0, x, x * normal(1, 1, channels, seed=1))
    np.testing.assert_array_equal(after["bits"], bit_packed(np.where(expected < 0, -1, 1)))


@pytest.mark.parametrize("shape", [(16, 1, 1), (1, 16, 1)])
def test_a_value_for_each_row_or_column_is_none_for_each_channel(shape: tuple[int, ...]) -> None:
    build = Builder()
    x, slope = build.input("image", 1, 16, 16, 16), build.constant(normal(*shape))
    y = build.op("PRELU", build.op("ADD", x, build.constant(normal(16))), slope)
    module, image = build.module(logits=y), normal(1, 16, 16, 16, seed=1)
    before = run(module, image=image)["logits"]
    assert long_rows.run(module) == {"long_rows": 1}
    assert run(module, image=image)["logits"].tobytes() == before.tobytes()


def test_a_vector_is_repeated_once() -> None:
    build = Builder()
    x, offset = build.input("image", 1, 16, 16, 16), build.constant(normal(16))
    y = build.op("ADD", build.op("ADD", x, offset), offset)
    module = build.module(logits=y)
    long_rows.run(module)
    # The map keeps its long rows between the two.
    assert names(module.graph) == ["RESHAPE", "TILE", "ADD", "ADD", "RESHAPE"]
