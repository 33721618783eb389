"""Training of single networks in mixed precision on CPUs.

TensorFlow's graph optimizer computes convolutions, matrix products and what is between them in
bfloat16, where oneDNN is faster with it (AVX512_BF16, AMX), and all else in float32. Variables and
gradients stay float32. The sums of a binary convolution round to 8 bits, as do the real-valued
gradients through it; its operands, signs, are exact.

The graph optimizer can't see into loops that XLA compiled, so a network trains without
`larq_ensemble.ensembles.fused_activations`. For ensembles see `Ensemble.compile`, which has a
bfloat16 of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from larq_ensemble.ensembles.traced import check_computes_bfloat16
from larq_ensemble.keras import tf

_OPTIMIZER = "auto_mixed_precision_onednn_bfloat16"


@contextlib.contextmanager
def bfloat16_graphs() -> Iterator[None]:
    """Graphs that run for the first time within the block compute in bfloat16 where it helps.

    # Raises
        EnsembleError: if TensorFlow can't compute convolutions in bfloat16 here.
    """
    check_computes_bfloat16()
    before = tf.config.optimizer.get_experimental_options().get(_OPTIMIZER, False)
    tf.config.optimizer.set_experimental_options({_OPTIMIZER: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({_OPTIMIZER: before})
