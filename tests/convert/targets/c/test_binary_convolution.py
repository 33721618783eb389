"""The C kernel of binary convolutions equals products of +1 and -1 that NumPy sums."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.convert.targets.c import binary_filters
from larq_ensemble.convert.targets.c.plan import BinaryConvolution, Map, Value, Window
from larq_ensemble.errors import EnsembleError

from ....c_compiler import library_of

KERNELS = Path(binary_filters.__file__).parent / "kernels"
GUARD = 0xA5A5A5A5
PROGRAM = """
#include "binary_convolution.h"

/* All sums of a map, [height, width, channels]. */
void sums(const uint16_t *geometry, const uint32_t *filters, const uint32_t *input, int32_t height,
          int32_t width, uint32_t *scratch, int16_t *out) {
  BinaryConvolution c;
  memcpy(&c, geometry, sizeof c);
  for (int32_t y = 0; y < height; y++)
    for (int32_t x = 0; x < width; x++, out += c.channels)
      memcpy(out, binary_sums(&c, filters, input, y, x, scratch), c.channels * sizeof *out);
}
"""
Sums = Callable[[BinaryConvolution, np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def kernel_sums(tmp_path_factory: pytest.TempPathFactory) -> Sums:
    """The sums of the C kernel, `[height, width, channels]`, of signs `[y, x, channel]`."""
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "sums.c").write_text(PROGRAM)
    program = library_of(folder, "sums.c", "-O1", f"-I{KERNELS}")

    def sums(step: BinaryConvolution, signs: np.ndarray) -> np.ndarray:
        geometry = np.array(list(binary_filters.geometry(step).values()), np.int16)
        words = binary_filters.scratch_bytes(step) // 4
        scratch = np.full(words + 1, GUARD, np.uint32)
        # All that the program sees is its own, so that it can't read beyond without a fault being
        # possible; what it wrote beyond is seen here.
        out = np.zeros((step.height, step.width, step.channels), np.int16)
        arrays = [geometry, binary_filters.packed_filters(step), map_words(step.input, signs)]
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (*arrays, scratch, out)]
        program.sums(*pointers[:3], step.height, step.width, *pointers[3:])
        assert scratch[-1] == GUARD
        return out

    return sums


def map_words(input: Map, signs: np.ndarray) -> np.ndarray:
    """A map of signs as `Map` says."""
    bits = np.zeros((input.height * input.width, input.pixel_bits), bool)
    bits[:, : input.channels] = signs.reshape(-1, input.channels) < 0
    flat = np.zeros(input.bytes * 8, bool)
    flat[: bits.size] = bits.ravel()
    return np.packbits(flat, bitorder="little").view("<u4").astype(np.uint32)


def convolution(
    rng: np.random.Generator,
    size: tuple[int, int],
    channels: tuple[int, int],
    window: Window,
    *,
    bottom: int = 0,
    right: int = 0,
    **options: bool | int,
) -> BinaryConvolution:
    """A step with random filters."""

    def outputs(size: int, padding: int, taps: int, dilation: int, stride: int) -> int:
        return (size + padding - (taps - 1) * dilation - 1) // stride + 1

    per_group = channels[0] // int(options.get("groups", 1))
    shape = (channels[1], window.height, window.width, per_group)
    w = window
    return BinaryConvolution(
        height=outputs(size[0], w.top + bottom, w.height, w.dilation_y, w.stride_y),
        width=outputs(size[1], w.left + right, w.width, w.dilation_x, w.stride_x),
        channels=channels[1],
        epilogue=(),
        shared=False,
        layer="conv",
        input=Map(*size, channels[0], "signs", shared=False),
        filters=Value(random_signs(rng, shape), "signs", "binary filters"),
        window=window,
        **options,  # type: ignore[arg-type]
    )


def random_signs(rng: np.random.Generator, shape: tuple[int, ...], p: float = 0.5) -> np.ndarray:
    return np.where(rng.random(shape) < p, -1, 1).astype(np.float32)


def expected(step: BinaryConvolution, signs: np.ndarray) -> np.ndarray:
    """The sums by their definition."""
    window, groups = step.window, step.groups
    filters = step.filters.data.reshape(groups, -1, *step.filters.data.shape[1:])
    # Wide enough for whatever is read beyond the bottom and on the right.
    bottom = step.height * window.stride_y + window.height * window.dilation_y
    right = step.width * window.stride_x + window.width * window.dilation_x
    padding = ((window.top, bottom), (window.left, right), (0, 0))
    padded = np.pad(signs, padding, constant_values=1 if step.pads_with_ones else 0)
    parts = padded.reshape(*padded.shape[:2], groups, -1)
    sums = np.zeros((step.height, step.width, groups, filters.shape[1]))
    for ky in range(window.height):
        for kx in range(window.width):
            rows = slice(ky * window.dilation_y, None, window.stride_y)
            columns = slice(kx * window.dilation_x, None, window.stride_x)
            tap = parts[rows, columns][: step.height, : step.width]
            sums += np.einsum("yxgi,goi->yxgo", tap, filters[:, :, ky, kx])
    return sums.reshape(step.height, step.width, -1)


SAME = Window(3, 3, top=1, left=1)


@pytest.mark.parametrize("pads_with_ones", [False, True])
@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [(1, 1), (7, 5), (8, 8), (16, 16), (20, 33), (32, 32), (48, 40), (64, 64), (100, 20), (256, 8)],
)
def test_channels(kernel_sums: Sums, inputs: int, outputs: int, pads_with_ones: bool) -> None:
    rng = np.random.default_rng(inputs)
    options = {"bottom": 1, "right": 1, "pads_with_ones": pads_with_ones}
    step = convolution(rng, (5, 4), (inputs, outputs), SAME, **options)
    signs = random_signs(rng, (5, 4, inputs))
    np.testing.assert_array_equal(kernel_sums(step, signs), expected(step, signs))


@pytest.mark.parametrize("pads_with_ones", [False, True])
@pytest.mark.parametrize(
    ("window", "bottom", "right"),
    [
        (Window(3, 3), 0, 0),
        (Window(1, 1), 0, 0),
        (Window(3, 3, stride_y=2, stride_x=2), 1, 1),
        (Window(3, 3, stride_y=2, stride_x=1, top=1, left=1), 0, 1),
        (Window(1, 1, stride_y=2, stride_x=2), 0, 0),
        (Window(5, 2, top=3), 3, 1),
        (Window(2, 5, left=4), 0, 3),
        (Window(3, 3, top=2, left=2, dilation_y=2, dilation_x=2), 2, 2),
        (Window(3, 3, top=1, left=3, dilation_y=1, dilation_x=3), 1, 3),
        (Window(2, 2, stride_y=3, stride_x=3), 2, 2),
        (Window(3, 3, top=3, left=3), 3, 3),
    ],
)
def test_windows(
    kernel_sums: Sums, window: Window, bottom: int, right: int, pads_with_ones: bool
) -> None:
    rng = np.random.default_rng(3)
    options = {"bottom": bottom, "right": right, "pads_with_ones": pads_with_ones}
    step = convolution(rng, (6, 7), (20, 9), window, **options)
    signs = random_signs(rng, (6, 7, 20))
    np.testing.assert_array_equal(kernel_sums(step, signs), expected(step, signs))


@pytest.mark.parametrize(
    ("groups", "inputs", "outputs"), [(2, 40, 6), (4, 64, 160), (3, 9, 9), (8, 8, 8)]
)
def test_groups(kernel_sums: Sums, groups: int, inputs: int, outputs: int) -> None:
    rng = np.random.default_rng(groups)
    step = convolution(rng, (4, 4), (inputs, outputs), SAME, bottom=1, right=1, groups=groups)
    signs = random_signs(rng, (4, 4, inputs))
    np.testing.assert_array_equal(kernel_sums(step, signs), expected(step, signs))


@pytest.mark.parametrize("filters", [-1, 1])
@pytest.mark.parametrize("signs", [-1, 1])
@pytest.mark.parametrize("inputs", [7, 455, 1024])
def test_largest_sums(kernel_sums: Sums, inputs: int, signs: int, filters: int) -> None:
    """4095 = 9 * 455 fills a counter of 12 bits."""
    step = convolution(np.random.default_rng(0), (3, 3), (inputs, 1), SAME, bottom=1, right=1)
    step.filters.data[:] = filters
    sums = kernel_sums(step, np.full((3, 3, inputs), signs, np.float32))
    assert sums[1, 1, 0] == 9 * inputs * signs * filters
    assert sums[0, 0, 0] == 4 * inputs * signs * filters


def test_filters_of_members() -> None:
    rng = np.random.default_rng(0)
    step = convolution(rng, (3, 3), (8, 4), Window(3, 3))
    both = np.stack([step.filters.data, -step.filters.data])
    members = Value(both, "signs", "binary filters", by_member=True)
    packed = binary_filters.packed_filters(
        BinaryConvolution(**{**step.__dict__, "filters": members})
    )
    assert packed.shape[0] == 2
    np.testing.assert_array_equal(packed[0], binary_filters.packed_filters(step))


def test_too_large() -> None:
    step = convolution(np.random.default_rng(0), (60, 60), (32, 1), Window(33, 33))
    with pytest.raises(EnsembleError, match="conv: a window of 34848 signs"):
        binary_filters.packed_filters(step)
