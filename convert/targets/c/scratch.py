"""Scratch memory of the C kernels: the sums of a pixel, and what its window reads."""

from __future__ import annotations

from larq_ensemble.convert.targets.c import binary_filters
from larq_ensemble.convert.targets.c.plan import (
    BinaryConvolution,
    Columns,
    Convolution,
    Elementwise,
    Pooling,
    Step,
    Store,
)

_FLOAT = 4


def scratch_bytes(step: Step) -> int:
    """Bytes of scratch memory that a step needs while it runs; a multiple of 4."""
    if pools_signs(step):
        return 0
    if isinstance(step, BinaryConvolution):
        return binary_filters.scratch_bytes(step)
    sums = _FLOAT * step.channels
    if isinstance(step, Convolution):
        return sums + _FLOAT * _patch(step)
    if isinstance(step, Pooling):
        return sums + (0 if step.input.format == "float32" else sums)
    return sums if isinstance(step, Elementwise | Columns) else 0


def _patch(step: Convolution) -> int:
    """Numbers that a pixel's window has; a depthwise convolution takes a pixel at a time."""
    channels = step.input.channels
    if is_depthwise(step):
        return 0 if step.input.format == "float32" else channels
    return step.window.height * step.window.width * channels // step.groups


def is_depthwise(step: Convolution) -> bool:
    """Whether each filter reads a channel of its own."""
    return step.groups == step.input.channels and step.groups > 1


def pools_signs(step: Step) -> bool:
    """Whether it is a pooling from signs to signs, which computes 32 channels at once."""
    if not isinstance(step, Pooling) or step.input.format != "signs" or len(step.epilogue) != 1:
        return False
    (store,) = step.epilogue
    return (
        isinstance(store, Store)
        and store.map.format == "signs"
        and store.map.channels == step.channels == step.input.channels
    )
