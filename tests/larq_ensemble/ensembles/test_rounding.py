"""Stochastic rounding: probabilities of many draws, and what a quantizer makes of them."""

from __future__ import annotations

import numpy as np

from larq_ensemble.ensembles.rounding import stochastically_rounded
from larq_ensemble.keras import lq


def test_probabilities_follow_the_weights() -> None:
    """Each filter's weights over its largest, w', are +1 with probability (w' + 1) / 2."""
    relative = np.array([1.0, 0.5, 0.0, -0.25, -1.0])
    n = 20_000
    filters = np.tile(relative, (n, 1)) * 0.03  # latent weights are small
    weights = np.stack([filters, 40 * filters], axis=-1)
    rounded = stochastically_rounded(weights, np.random.default_rng(0))
    positive = (rounded > 0).mean(axis=0)
    # Within five standard deviations, which are 0 at both ends.
    probability = (relative[:, np.newaxis] + 1) / 2
    deviation = np.sqrt(probability * (1 - probability) / n)
    assert (np.abs(positive - probability) <= 5 * deviation).all()


def test_filters_are_their_scale_and_quantize_to_themselves() -> None:
    weights = np.random.default_rng(1).normal(0, 0.1, (3, 3, 4, 6)).astype(np.float32)
    rounded = stochastically_rounded(weights, np.random.default_rng(2))
    assert rounded.dtype == np.float32
    scales = np.abs(weights).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(np.abs(rounded), np.broadcast_to(scales, weights.shape), rtol=1e-6)
    quantized = lq.quantizers.MagnitudeAwareSign()(rounded).numpy()
    np.testing.assert_allclose(quantized, rounded, rtol=1e-6)


def test_draws_are_seeded() -> None:
    weights = np.random.default_rng(1).normal(size=(3, 3, 4, 6))
    first, again, other = (
        stochastically_rounded(weights, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_filter_of_zeros_stays_one() -> None:
    weights = np.zeros((3, 3, 2, 1))
    assert not stochastically_rounded(weights, np.random.default_rng(0)).any()
