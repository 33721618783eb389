"""How members are trained and combined, one class a scheme.

| scheme | trained on | combined by |
|---|---|---|
| `fusion` | one loss, of the combination | softmax of the mean logits |
| `voting` | each member its own loss | mean of the softmaxes |
| `hard_voting` | each member its own loss | share of the members' votes |
| `bagging` | each member its own bootstrap sample of the data | mean of the softmaxes |
| `batch_bagging` | each member a resample of each batch | mean of the softmaxes |

# References
    - Kim et al. 2022, section "Ensemble-based systems".
    - Breiman 1996, Bagging predictors.
    - Ensemble-PyTorch (`torchensemble`), the paper's library, resamples within each batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from larq_ensemble.keras import keras, tf
from larq_ensemble.registry import Registry

ENSEMBLE_OUTPUT = "ensemble"

SampleWeights = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def member_output(member: int) -> str:
    """The name of a member's logits among the outputs of an ensemble."""
    return f"member_{member}"


class Scheme:
    """Base of the schemes: members trained independently, averaged as probabilities.

    # Attributes
        name: how users call it.
        jitter: default size of the noise on members' initial weights. Members that start equal
            and see the same batches would stay equal for ever.
        independent: whether members may see different batches (one input a member).
    """

    name: str
    jitter: float = 0.1
    independent: bool = True

    def combine(self, logits: Sequence[tf.Tensor]) -> tf.Tensor:
        """Logits of the members, each [n, classes] -> probabilities [n, classes]."""
        return tf.reduce_mean(tf.stack([tf.nn.softmax(member) for member in logits]), axis=0)

    def losses(self, members: int) -> dict[str, keras.losses.Loss]:
        """The loss of each output that is trained on, for `Model.compile`."""
        return {
            member_output(member): keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            for member in range(members)
        }

    def sample_weights(self, members: int, examples: int, seed: int) -> SampleWeights | None:
        """How often each member sees each example, for `training.pipeline`.

        # Returns
            `None` (every example once), or a function (indices int32 [batch], seed int64 [2]) ->
            float32 [members, batch].
        """
        return None


class Fusion(Scheme):
    """One loss on the mean of the logits: members are trained to be right together."""

    name = "fusion"
    independent = False

    def combine(self, logits: Sequence[tf.Tensor]) -> tf.Tensor:
        return keras.activations.softmax(tf.reduce_mean(tf.stack(logits), axis=0))

    def losses(self, members: int) -> dict[str, keras.losses.Loss]:
        # Keras takes the logits from behind a final softmax, so this is as stable as on logits.
        return {ENSEMBLE_OUTPUT: keras.losses.SparseCategoricalCrossentropy()}


class Voting(Scheme):
    """Independent members, soft vote."""

    name = "voting"


class HardVoting(Scheme):
    """Independent members, majority vote; ties go to the class with the lower index."""

    name = "hard_voting"

    def combine(self, logits: Sequence[tf.Tensor]) -> tf.Tensor:
        stacked = tf.stack(logits)
        votes = tf.one_hot(tf.argmax(stacked, axis=-1), tf.shape(stacked)[-1], dtype=stacked.dtype)
        return tf.reduce_mean(votes, axis=0)


class Bagging(Scheme):
    r"""Independent members, each on a bootstrap sample of the training data.

    Member m is trained with the weights \\( c_{m,i} \\), how often example i was drawn when as
    many examples as there are were drawn with replacement. The counts are fixed for the run.
    """

    name = "bagging"

    def sample_weights(self, members: int, examples: int, seed: int) -> SampleWeights | None:
        counts = np.random.default_rng(seed).multinomial(
            examples, np.full(examples, 1 / examples), size=members
        )
        table = tf.constant(counts, tf.float32)
        return lambda indices, _: tf.gather(table, indices, axis=1)


class BatchBagging(Scheme):
    """As `Bagging`, but each batch is resampled with replacement, for each member anew."""

    name = "batch_bagging"

    def sample_weights(self, members: int, examples: int, seed: int) -> SampleWeights | None:
        def resample(indices: tf.Tensor, step_seed: tf.Tensor) -> tf.Tensor:
            batch = tf.size(indices)
            drawn = tf.random.stateless_uniform(
                [members, batch], step_seed, 0, batch, dtype=tf.int32
            )
            counts = tf.math.bincount(
                drawn, minlength=batch, maxlength=batch, dtype=tf.float32, axis=-1
            )
            # Inside a tf.data function bincount forgets how many rows it has.
            return tf.ensure_shape(counts, [members, None])

        return resample


SCHEMES: Registry[Scheme] = Registry("scheme")
for _scheme in (Fusion(), Voting(), HardVoting(), Bagging(), BatchBagging()):
    SCHEMES.register(_scheme.name, _scheme)
