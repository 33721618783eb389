"""Stochastic rounding of real-valued weights to binary filters."""

from __future__ import annotations

import numpy as np


def stochastically_rounded(weights: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    r"""Draws binary filters whose expectation is the real-valued weights, up to their size.

    \\[ w_b = s \cdot \begin{cases} +1 & \text{with probability }
    p = \text{clip}\left(\frac{w / a + 1}{2}, 0, 1\right) \\\\ -1 & \text{otherwise}
    \end{cases} \\]

    for each filter, with \\( a = \max(|W|) \\) and the scale \\( s = \text{mean}(|W|) \\), so
    that Larq's `MagnitudeAwareSign` leaves the result unchanged.

    Vogel et al. (and the paper) have a = 1: their weights fill [-1, 1]. Latent weights of a
    trained binarized network are mostly near 0.1 in size, because only their signs matter in
    training. With a = 1, p would be near 1/2 everywhere and the filters almost pure noise. Divided
    by their largest value, the weights fill the interval and keep their proportions.

    # Arguments
        weights: floats [..., filters], a filter's weights in all but the last axis.
        generator: where the draws come from.

    # Returns
        An array of the same shape and dtype, +s or -s of each filter.

    # References
        - Vogel et al. 2016, Efficient stochastic inference of bitwise deep neural networks.
        - Kim et al. 2022, [PeerJ CS 8:e924](https://doi.org/10.7717/peerj-cs.924), Eq. 7.
    """
    dtype = weights.dtype
    if dtype.itemsize < 4:  # NumPy promotes no bfloat16, and float16 is coarse for a mean
        weights = weights.astype(np.float32)
    magnitudes = np.abs(weights).reshape(-1, weights.shape[-1])
    largest = magnitudes.max(axis=0)
    probability = (weights / np.where(largest > 0, largest, 1) + 1) / 2
    signs = np.where(generator.random(weights.shape) < probability, 1, -1)
    return (signs * magnitudes.mean(axis=0)).astype(dtype)
