"""Maps that differ at their borders only are stored by their different rows and columns."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.convert.passes import border_maps
from larq_ensemble.ir.verifier import verify

from ...builder import Builder, names, normal, run


def bordered(height: int, width: int, channels: int) -> np.ndarray:
    """9 different values a channel, as the zero padding of a 3x3 window gives; 0 and -0 differ."""
    few = normal(3, 3, channels)
    few[0, 0, 0], few[0, 1, 0] = 0.0, -0.0
    rows, columns = (np.array([0, *[1] * (size - 2), 2]) for size in (height, width))
    return few[rows][:, columns][np.newaxis]


@pytest.mark.parametrize("shape", [(8, 8, 5), (1, 64, 8), (64, 1, 8), (3, 60, 2)])
def test_the_map_is_looked_up(shape: tuple[int, int, int]) -> None:
    build = Builder()
    values = bordered(*(max(size, 2) for size in shape[:2]), shape[2])
    values = np.ascontiguousarray(values[:, : shape[0], : shape[1]])
    x = build.input("image", 1, *shape)
    module = build.module(logits=build.op("ADD", x, build.constant(values)))
    assert border_maps.run(module)["border_maps"] == 1
    verify(module)
    assert names(module.graph) == ["GATHER", "GATHER", "ADD"]
    stored = sum(t.data.nbytes for t in module.graph.tensors if t.data is not None)
    assert stored <= 4 * (9 * shape[2] + shape[0] + shape[1])
    image = np.full((1, *shape), -0.0, np.float32)  # x + -0 is x to the bit
    assert run(module, image=image)["logits"].tobytes() == (image + values).tobytes()


@pytest.mark.parametrize(
    "values",
    [normal(1, 8, 8, 4), bordered(4, 4, 4), np.ones((1, 1, 400), np.float32)],
    ids=["all differ", "small", "another rank"],
)
def test_other_constants_stay(values: np.ndarray) -> None:
    build = Builder()
    x = build.input("image", *values.shape)
    module = build.module(logits=build.op("ADD", x, build.constant(values)))
    assert border_maps.run(module)["border_maps"] == 0
    assert names(module.graph) == ["ADD"]
