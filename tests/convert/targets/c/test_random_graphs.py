"""Random chains of operators, some of which read earlier maps again, against LCE's interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.ir.graph import Tensor

from ....builder import Builder, normal
from .test_operators import (
    SAME,
    VALID,
    binary,
    centered,
    convolution,
    flat,
    gate,
    joined,
    margin,
    numbers,
    planned,
    signs,
)

SEEDS, LAYERS, MOST = 40, 8, 600  # the last one: numbers in a map


class Network:
    """A chain of layers that a seed draws."""

    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng(seed)

    def __call__(self, build: Builder, image: Tensor) -> Tensor:
        self._build = build
        self._maps = [convolution(build, centered(build, image), 8, (1, 6, 7, 8))]
        layers = [self.binary_convolution, self.concatenation, self.cut, self.function]
        layers += [self.map_by_map, self.map_by_vector, self.pooling, self.real_convolution]
        layers += [self.sign, *2 * [self.real_convolution]]
        for _ in range(LAYERS):
            self._maps.append(layers[self._below(len(layers))](self._maps[-1]))
        return flat(build, self._maps[-1])

    def _below(self, bound: int) -> int:
        return int(self._draw.integers(bound))

    def _one_of(self, *values: str) -> str:
        return values[self._below(len(values))]

    def _window(self, x: Tensor) -> tuple[int, list[int], dict[str, int]]:
        """A size, and the height, width and options of what such a window gives."""
        size = min(1 + self._below(2) * self._below(3), *x.shape[1:3])  # often 1
        stride, padding = 1 + self._below(2), (SAME, VALID)[self._below(2)]
        less = size - 1 if padding == VALID else 0
        places = [-(-(extent - less) // stride) for extent in x.shape[1:3]]
        return size, places, {"padding": padding, "strideH": stride, "strideW": stride}

    def map_by_map(self, x: Tensor) -> Tensor:
        others = [map for map in self._maps if map.shape == x.shape]
        name = self._one_of("ADD", "SUB", "MUL")
        return self._build.op(name, x, others[self._below(len(others))])

    def map_by_vector(self, x: Tensor) -> Tensor:
        """A number a channel, which members share or not."""
        table = normal(2, x.shape[3], seed=self._below(99))
        if self._below(2):
            vector = self._build.lookup(table, self._build._inputs["member"])
        else:
            vector = self._build.constant(table[0])
        return self._build.op(self._one_of("ADD", "SUB", "MUL"), x, vector)

    def function(self, x: Tensor) -> Tensor:
        name = self._one_of("TANH", "RELU", "NEG", "excitation")
        if name == "excitation":
            return self._build.op("MUL", x, self._build.op("LOGISTIC", gate(self._build, x)))
        return self._build.op(name, x)

    def concatenation(self, x: Tensor) -> Tensor:
        """With an earlier map or itself."""
        others = [map for map in self._maps if map.shape[:3] == x.shape[:3]]
        other = x if self._below(2) else others[0]
        return joined(self._build, x, other) if x.size + other.size < MOST else x

    def real_convolution(self, x: Tensor) -> Tensor:
        """Of signs, of a part of a concatenation, with a margin, or of a map as it is."""
        for change in (self.concatenation, self.sign, self.cut, self._margin):
            x = change(x) if self._below(3) == 0 else x
        size, places, options = self._window(x)
        return convolution(self._build, x, 8, (1, *places, 8), size, **options)

    def _margin(self, x: Tensor) -> Tensor:
        return margin(self._build, x, (1, 1), (self._below(2), 0))

    def pooling(self, x: Tensor) -> Tensor:
        size, places, options = self._window(x)
        shape, name = (1, *places, x.shape[3]), self._one_of("MAX_POOL_2D", "AVERAGE_POOL_2D")
        extent = {"filterHeight": size, "filterWidth": size}
        return self._build.op(name, x, shape=shape, **extent, **options)

    def sign(self, x: Tensor) -> Tensor:
        return numbers(self._build, signs(self._build, x), x.shape[3])

    def binary_convolution(self, x: Tensor) -> Tensor:
        """It may give bits."""
        channels, packed = min(x.shape[3], 32), bool(self._below(2))
        bits = signs(self._build, self._slice(x, 0, (*x.shape[:3], channels)))
        options = {"padding": SAME, "pad_values": 1, "channels_in": channels}
        shape, size = (*x.shape[:3], 8), 1 + 2 * self._below(2)
        y = binary(self._build, bits, shape, size, packed=packed, **options)
        return numbers(self._build, y, 8) if packed else y

    def cut(self, x: Tensor) -> Tensor:
        """Rows and columns from the second on."""
        _, height, width, channels = x.shape
        first = min(1, height - 1, width - 1)
        return self._slice(x, first, (1, height - first, width - first, channels))

    def _slice(self, x: Tensor, first: int, shape: tuple[int, ...]) -> Tensor:
        bounds = [self._build.constant(v, "int32") for v in ([0, first, first, 0], shape)]
        return self._build.op("SLICE", x, *bounds, shape=shape)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_plan_computes_what_lce_computes(seed: int) -> None:
    _, got, expected = planned(Network(seed))
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
