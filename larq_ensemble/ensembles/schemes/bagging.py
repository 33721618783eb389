"""Bagging: independent members, each on a resample of the training data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from larq_ensemble.ensembles.schemes.base import SampleWeights, Scheme
from larq_ensemble.keras import tf


class Bagging(Scheme):
    r"""Each member is trained on a bootstrap sample of the training data.

    The sample weight \\( c_{m,i} \\) of member m is the count of example i in n draws with
    replacement from the n examples. The counts are fixed for the whole training.

    In a stream n is unknown and examples have no index. There \\( c_{m,i} \\) is a Poisson(1)
    variable, the limit of the bootstrap for large n. It depends only on the image's bytes, the seed
    and m, so an example keeps its count in every epoch, in any order. An image that is augmented
    anew in each epoch counts as a new example: augment in the network, or train on arrays, if that
    matters.

    # References
        - Breiman 1996, Bagging predictors.
        - Oza and Russell 2001, Online bagging and boosting.
    """

    name = "bagging"
    fixed_sample = True
    draws = True

    def sample_weights(self, members: int, examples: int, seed: int) -> SampleWeights:
        counts = np.random.default_rng(seed).multinomial(
            examples, np.full(examples, 1 / examples), size=members
        )
        table = tf.constant(counts, tf.float32)
        return lambda indices, _: tf.gather(table, indices, axis=1)

    def drawn_weights(
        self, members: int, inputs: Sequence[tf.Tensor], seed: int, step: tf.Tensor
    ) -> tf.Tensor:
        if len(inputs) == 1:
            return poisson_counts(inputs[0], members, seed)
        rows = [poisson_counts(images, members, seed)[m] for m, images in enumerate(inputs)]
        return tf.stack(rows)


class BatchBagging(Scheme):
    r"""As `Bagging`, but each member takes a part of every batch, as in the paper's library.

    From a batch of B examples B are drawn with replacement, and duplicates are dropped. So each
    example is in the part with probability \\( 1 - (1 - 1/B)^B \\), about \\( 1 - 1/e \\) or
    63 %, and counts once. The loss is the mean over the part: where members are trained together,
    the sample weight is \\( B / n \\) for the n examples of the part, else 0, and the other
    examples only enter the batch's statistics of batch norm. Members that are trained one after the
    other see nothing but the part.

    # References
        - Ensemble-PyTorch (`torchensemble`), the paper's library, did so up to version 0.1.7.
    """

    name = "batch_bagging"
    draws = True
    subsamples = True

    def sample_weights(self, members: int, examples: int, seed: int) -> SampleWeights:
        def weigh(indices: tf.Tensor, step_seed: tf.Tensor) -> tf.Tensor:
            batch = tf.size(indices)
            drawn = tf.random.stateless_uniform(
                [members, batch], step_seed, 0, batch, dtype=tf.int32
            )
            # As a `bincount` with binary output, which XLA can't compile.
            is_in_part = tf.reduce_any(tf.one_hot(drawn, batch, True, False), axis=1)
            part = tf.cast(is_in_part, tf.float32)
            return part / tf.reduce_mean(part, axis=1, keepdims=True)

        return weigh

    def drawn_weights(
        self, members: int, inputs: Sequence[tf.Tensor], seed: int, step: tf.Tensor
    ) -> tf.Tensor:
        # On several devices each has a part of the batch, and draws for itself.
        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            replica = tf.cast(context.replica_id_in_sync_group, tf.int64)
            step = tf.cast(step, tf.int64) * context.num_replicas_in_sync + replica
        weights = super().drawn_weights(members, inputs, seed, step)
        assert weights is not None
        return weights


def poisson_counts(examples: tf.Tensor, members: int, seed: int) -> tf.Tensor:
    r"""Poisson(1) variables that the bytes of the examples, the seed and the member determine.

    The bytes are hashed to 64 bits, \\( h_m = b_m + \sum_j a_{m,j} x_j \bmod 2^{64} \\) with
    random \\( a, b \\), and mixed, so that pairs of examples with equal differences are
    independent, too. The upper 32 bits are a uniform variable, which the inverse distribution
    function maps to a count.

    # Arguments
        examples: a tensor [n, ...] of any numeric type.
        members: M.

    # Returns
        float32 [M, n].

    # References
        - Thorup 2015, [High speed hashing for integers and
          strings](https://arxiv.org/abs/1504.06804), section 3.3.
        - Steele et al. 2014, Fast splittable pseudorandom number generators (SplitMix64's mixing).
    """
    examples = tf.bitcast(examples, tf.int32 if examples.dtype.size == 4 else tf.uint8)
    words = tf.cast(tf.reshape(examples, [tf.shape(examples)[0], -1]), tf.int64)
    coefficients, offsets = (
        tf.random.stateless_uniform(shape, [seed, part], None, None, dtype=tf.int64)
        for part, shape in enumerate(([tf.shape(words)[1], members], [members]))
    )
    mixed = _mixed(tf.matmul(words, coefficients) + offsets)
    uniform = (tf.cast(_shifted(mixed, 32), tf.float64) + 0.5) / 2.0**32
    probabilities = np.exp(-1) / np.array([math.factorial(count) for count in range(15)])
    distribution = tf.constant(probabilities.cumsum(), tf.float64)
    counts = tf.searchsorted(distribution, tf.reshape(uniform, [-1]), side="right")
    return tf.cast(tf.transpose(tf.reshape(counts, tf.shape(uniform))), tf.float32)


def _mixed(hashed: tf.Tensor) -> tf.Tensor:
    """SplitMix64's mixing, one to one on int64."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        signed = tf.constant(factor - 2**64, tf.int64)
        hashed = tf.bitwise.bitwise_xor(hashed, _shifted(hashed, shift)) * signed
    return tf.bitwise.bitwise_xor(hashed, _shifted(hashed, 31))


def _shifted(values: tf.Tensor, bits: int) -> tf.Tensor:
    """A logical right shift; TensorFlow's shift of int64 is arithmetic."""
    shifted = tf.bitwise.right_shift(values, tf.constant(bits, tf.int64))
    return tf.bitwise.bitwise_and(shifted, tf.constant(2 ** (64 - bits) - 1, tf.int64))
