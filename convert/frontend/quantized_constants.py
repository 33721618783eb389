"""Quantized weights as constants, computed before LCE's converter sees the graph.

The converter computes what depends on constants only. But it leaves control flow in the file, and
operators on constants of more than 128 MiB, such as the first dense layer of an AlexNet. Then the
file would hold the latent weights as floats, and quantize them at every inference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from larq_ensemble.keras import tf


@contextlib.contextmanager
def quantized_constants(weights: Iterable[tf.Variable]) -> Iterator[None]:
    """Within it, the quantized variables among `weights` read as constants with these values."""
    quantized = [weight for weight in weights if getattr(weight, "quantizer", None) is not None]
    quantizers = [weight.quantizer for weight in quantized]
    with tf.init_scope():
        values = [weight.quantizer(tf.constant(weight.numpy())).numpy() for weight in quantized]
    for weight, value in zip(quantized, values, strict=True):
        weight.quantizer = lambda _latent, value=value: tf.constant(value)
    try:
        yield
    finally:
        for weight, quantizer in zip(quantized, quantizers, strict=True):
            weight.quantizer = quantizer
