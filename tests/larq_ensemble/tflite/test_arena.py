"""The estimate of the arena, by hand and against the addresses that LiteRT gives tensors."""

from __future__ import annotations

import numpy as np
import pytest

from larq_ensemble.ir.flatbuffer import read, to_model
from larq_ensemble.ir.graph import Module, Tensor
from larq_ensemble.ir.writer import packed
from larq_ensemble.tflite.arena import arena_bytes

from ...builder import Builder

interpreter = pytest.importorskip("ai_edge_litert.interpreter")


def pooled(build: Builder, x: Tensor, size: int) -> Tensor:
    """A pooling, which TFLite doesn't compute in place."""
    _, height, width, channels = x.shape
    window = {"filterHeight": size, "filterWidth": size, "strideH": size, "strideW": size}
    shape = (1, height // size, width // size, channels)
    return build.op("MAX_POOL_2D", x, shape=shape, padding=1, **window)


def chain() -> Module:
    """Maps of 4,096, 1,024, 256 and 64 bytes, one behind the other."""
    build = Builder()
    x = build.input("image", 1, 16, 16, 4)
    return build.module(logits=pooled(build, pooled(build, pooled(build, x, 2), 2), 2))


def diamond() -> Module:
    """Odd sizes, and a map that is kept while others come and go."""
    build = Builder()
    x = build.input("image", 1, 12, 12, 3)
    kept = pooled(build, x, 2)
    y = pooled(build, x, 1)
    z = pooled(build, pooled(build, y, 1), 2)
    both = build.op("CONCATENATION", kept, z, shape=(1, 6, 6, 6), axis=3)
    return build.module(logits=pooled(build, both, 6))


def test_by_hand() -> None:
    # The input stays. The output takes the place of the first map, which is no longer needed.
    assert arena_bytes(chain().graph) == 4096 + 1024 + 256
    build = Builder()
    x = build.input("image", 1, 5)  # 20 bytes: the next one begins at 64
    assert arena_bytes(build.module(logits=build.op("NEG", x)).graph) == 64 + 20


@pytest.mark.parametrize("module", [chain(), diamond()], ids=["chain", "diamond"])
def test_against_litert(module: Module) -> None:
    data = packed(to_model(module))
    model = interpreter.Interpreter(
        model_content=data,
        experimental_op_resolver_type=interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    model.allocate_tensors()
    spans = []
    for number, tensor in enumerate(read(data).graph.tensors):
        if tensor.data is None:
            view: np.ndarray = model.tensor(number)()
            start, _ = view.__array_interface__["data"]
            spans.append((start, start + view.nbytes))
    assert len(spans) >= 4
    taken = max(end for _, end in spans) - min(start for start, _ in spans)
    assert arena_bytes(module.graph) == taken
