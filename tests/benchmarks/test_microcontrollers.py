"""Int8 networks as programs for CMSIS-NN, and the tables of what programs take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from larq_ensemble.errors import EnsembleError
from larq_ensemble.ir.graph import Graph, Operator, Tensor
from larq_ensemble.ir.schema import options

from .conftest import ROOT, load

cmsis_nn = load("cmsis_nn")
microcontrollers = load("microcontrollers")


def int8(*shape: int, scale: float = 0.5, zero: int = 0) -> Tensor:
    return Tensor(shape, "int8", quantization=SimpleNamespace(scale=[scale], zeroPoint=[zero]))


@pytest.mark.parametrize("factor", [1.0, 0.5, 0.3, 1e-3, 123.456, 1 - 2**-40])
def test_a_factor_as_whole_numbers(factor) -> None:
    multiplier, shift = cmsis_nn.quantized_multiplier(factor)
    assert 2**30 <= multiplier < 2**31
    assert multiplier / 2**31 * 2.0**shift == pytest.approx(factor, rel=2**-30)


def test_an_addition_takes_the_place_of_what_nobody_reads_any_more() -> None:
    image, a, b, both, later = (int8(1, 4, 4, 8) for _ in range(5))
    operators = [
        Operator("CONV_2D", (image,), (a,)),
        Operator("CONV_2D", (a,), (b,)),
        Operator("ADD", (a, b), (both,)),
        Operator("ADD", (both, image), (later,)),
    ]
    places, size = cmsis_nn._places(image, operators)
    assert places[both] in (places[a], places[b])
    assert len({places[image], places[a], places[b]}) == 3
    assert size == 3 * 128


def test_normalization_is_a_table() -> None:
    """Of (x - 100) / 20 in steps of 0.5 around zero = -3, for one channel; computed by hand."""
    pixels, scaled, moved, image = (
        *(Tensor((1, 1, 1, 1), "float32") for _ in range(3)),
        int8(1, 1, 1, 1, scale=0.5, zero=-3),
    )
    factor, shift = (Tensor.constant(np.array([x], np.float32)) for x in (1 / 20, -5))
    quantize = Operator("QUANTIZE", (moved,), (image,))
    graph = Graph(
        [pixels, scaled, moved, image, factor, shift],
        [
            Operator("MUL", (pixels, factor), (scaled,)),
            Operator("ADD", (scaled, shift), (moved,)),
            quantize,
        ],
        [pixels],
        [image],
    )
    table = cmsis_nn._pixel_table(graph, quantize)
    assert table.shape == (1, 256)
    assert table.dtype == np.int8
    assert [table[0, x] for x in (0, 100, 110, 255)] == [-13, -3, -2, 13]
    assert table[0, 105] == -2  # half a step is rounded away from zero, as TFLite does
    assert table[0, 95] == -4


def test_padding_and_activation() -> None:
    """SAME with stride 2 on 32 pixels: a window of 3 needs one pixel more, behind."""
    same = options("Conv2DOptions", padding=0, strideW=2, strideH=2)
    x = int8(1, 32, 32, 3)
    assert cmsis_nn._window(x, (3, 3), same, (1, 1)) == "{2, 2}, {0, 0}"
    assert cmsis_nn._window(x, (4, 4), same, (1, 1)) == "{2, 2}, {1, 1}"
    relu6 = options("Conv2DOptions", fusedActivationFunction=3)
    y = int8(1, scale=0.1, zero=-100)
    assert cmsis_nn._range(Operator("CONV_2D", (x,), (y,), relu6)) == "{-100, -40}"


def test_other_files_are_refused() -> None:
    with pytest.raises(EnsembleError, match="no network of `convert --quantize int8`"):
        cmsis_nn.program((ROOT / "tests" / "data" / "indexed.tflite").read_bytes())


def test_a_folder_without_cmsis_nn(tmp_path) -> None:
    with pytest.raises(EnsembleError, match="git clone"):
        cmsis_nn.kernel_sources(tmp_path)


def row(members: int, activations: str, **changed: Any) -> dict[str, Any]:
    cost = {"image": 2_000_000, "member": 3_000_000, "code_bytes": 100, "stack_bytes": 10}
    return {
        "network": "resnet20",
        "heads": "int8",
        "precision": "float32",
        "members": members,
        "activations": activations,
        "bytes": 1000 * members,
        "arena_bytes": 5000 if activations == "float32" else 3000,
        "costs": {"cortex-m4": cost},
        **changed,
    }


def test_tables() -> None:
    rows = [row(m, activations) for m in (1, 4) for activations in ("float32", "float16")]
    larger = [{**each, "heads": "float32", "bytes": 9000} for each in rows]
    of_int8 = {"instructions": 7_000_000, "code_bytes": 5, "ram_bytes": 20, "stack_bytes": 3}
    text = microcontrollers.tables(
        {
            "ensembles": [*larger, *rows],
            "int8": [{"network": "relu", "bytes": 10, "costs": {"cortex-m4": of_int8}}],
            "cpus": ["cortex-m4"],
            "cmsis_nn": "abc of 2026-07-15",
        }
    )
    assert "| resnet20 | int8 | float32 | 4 | 4,100 | 5,010 | 3,010 |" in text
    assert "| resnet20 | float32 | float32 | 4 | 9,100 | 5,010 | 3,010 |" in text
    assert "| network | maps | processor | once an image | a member | M = 1 | M = 4 |" in text
    assert text.count("| resnet20 | float16 | Cortex-M4 | 2.0 | 3.0 | 5.0 | 14.0 |") == 1
    assert "| relu | 15 | 23 | 7.0 |" in text


def test_the_short_table_has_the_smallest_format() -> None:
    rows = [row(m, activations) for activations in ("float32", "float16") for m in (1, 4)]
    larger = [{**each, "heads": "float32", "bytes": 9000} for each in rows]
    text = microcontrollers.short_table({"ensembles": [*larger, *rows], "cpus": ["cortex-m4"]})
    _, _, *lines = text.splitlines()
    assert lines == [
        "| resnet20 | 1 | 1,100 | 5,010 | 3,010 | 5.0 |",
        "| resnet20 | 4 | 4,100 | 5,010 | 3,010 | 14.0 |",
    ]
