"""How members are trained and combined, one class a scheme.

| scheme | trained on | combined by |
|---|---|---|
| `fusion` | one loss, of the combination | softmax of the mean logits |
| `nested_fusion` | combination of the first m, all m at once | softmax of the mean logits |
| `sampled_nested_fusion` | the same, one random m a step | softmax of the mean logits |
| `voting` | each member its own loss | mean of the softmaxes |
| `hard_voting` | each member its own loss | share of the members' votes |
| `bagging` | each member its own bootstrap sample of the data | mean of the softmaxes |
| `batch_bagging` | each member a resample of each batch | mean of the softmaxes |
| `boosting` | in turn, each the residual of those before it | softmax of the summed logits |
| `soft_boosting` | together, each the residual of those before it | softmax of the summed logits |
| `snapshot` | in turn, each a cycle of one cyclic learning rate | mean of the softmaxes |
| `fast_geometric` | the same, up from a minimum and down again | mean of the softmaxes |
| `adversarial` | in turn, each on images changed against it too | mean of the softmaxes |
| `adaboost` | in turn, each on what those before it got wrong | weighted mean of the softmaxes |
| `stochastic_rounding` | in turn, each on filters rounded at random | mean of the softmaxes |

# References
    - Kim et al. 2022, section "Ensemble-based systems".
    - Breiman 1996, Bagging predictors.
    - Ensemble-PyTorch (`torchensemble`), the paper's library, resampled each batch up to 0.1.7.
    - Friedman 2001, Greedy function approximation: a gradient boosting machine.
    - Feng et al. 2020, [Soft gradient boosting machine](https://arxiv.org/abs/2006.04059).
    - Huang et al. 2017, [Snapshot ensembles](https://arxiv.org/abs/1704.00109).
    - Garipov et al. 2018, [Loss surfaces, mode connectivity, and fast ensembling of
      DNNs](https://arxiv.org/abs/1802.10026).
    - Lakshminarayanan et al. 2017, [Simple and scalable predictive uncertainty estimation using
      deep ensembles](https://arxiv.org/abs/1612.01474).
    - Zhu et al. 2019, [BENN](https://arxiv.org/abs/1806.07550); Zhu et al. 2009, Multi-class
      AdaBoost.
    - Vogel et al. 2016, Efficient stochastic inference of bitwise deep neural networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf
from larq_ensemble.registry import Registry

ENSEMBLE_OUTPUT = "ensemble"

Training = Literal["joint", "in_turn"]
SampleWeights = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def member_output(member: int) -> str:
    """The name of a member's logits among the outputs of an ensemble."""
    return f"member_{member}"


def prefix_output(count: int) -> str:
    """The name of the combination of the first `count` members among the outputs."""
    return f"first_{count}"


class Scheme:
    """Base of the schemes: members trained independently, averaged as probabilities.

    # Attributes
        name: how users call it.
        jitter: default size of the noise on members' initial weights. Members that start equal
            and see the same batches would stay equal for ever.
        independent: whether members may see different batches (one input a member).
        training: `"joint"`, all members in one `fit` of the ensemble, or `"in_turn"`, one after
            the other, each as a network by itself.
        rounded: whether members own their binary filters, drawn by stochastic rounding and
            frozen, whatever the sharing policy says of those layers.
    """

    name: str
    jitter: float = 0.1
    independent: bool = True
    training: Training = "joint"
    rounded: bool = False

    def combine(
        self, logits: Sequence[tf.Tensor], weights: Sequence[float] | None = None
    ) -> tf.Tensor:
        """Logits of the members, each [n, classes] -> probabilities [n, classes].

        `weights` are one positive number a member; `None`: all the same.
        """
        return _mean([tf.nn.softmax(member) for member in logits], weights)

    def combinations(self, members: int) -> dict[str, int]:
        """The outputs that combine members, each with how many: the first so many."""
        return {ENSEMBLE_OUTPUT: members}

    def losses(self, members: int) -> dict[str, keras.losses.Loss]:
        """The loss of each output that is trained on, for `Model.compile`."""
        return {
            member_output(member): keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            for member in range(members)
        }

    def loss_weights(self, members: int) -> dict[str, float] | None:
        """The weight of each of the losses in their sum, for `Model.compile`; `None`: all 1."""
        return None

    def with_prefix_weights(self, weights: Sequence[float]) -> Scheme:
        """This scheme with weights for the losses of the first m members, m = 1, 2, ...

        # Raises
            EnsembleError: for a scheme that has no such losses.
        """
        raise EnsembleError(
            f"`prefix_weights` do not go with the scheme {self.name!r}, which does not train the "
            "first m members for each m: leave them out, or choose nested_fusion."
        )

    def sample_weights(self, members: int, examples: int, seed: int) -> SampleWeights | None:
        """How often each member sees each example, for `larq_ensemble.training.pipeline`.

        # Returns
            `None` (every example once), or a function (indices int32 [batch], seed int64 [2]) ->
            float32 [members, batch].
        """
        return None


class Fusion(Scheme):
    """One loss on the mean of the logits: members are trained to be right together."""

    name = "fusion"
    independent = False

    def combine(
        self, logits: Sequence[tf.Tensor], weights: Sequence[float] | None = None
    ) -> tf.Tensor:
        return keras.activations.softmax(_mean(logits, weights))

    def losses(self, members: int) -> dict[str, keras.losses.Loss]:
        # Keras takes the logits from behind a final softmax, so this is as stable as on logits.
        return {
            output: keras.losses.SparseCategoricalCrossentropy()
            for output in self.combinations(members)
        }


class NestedFusion(Fusion):
    r"""Fusion of the first m members for every m at once, for devices that change m as they run.

    \\[ L = \sum_{m=1}^{M} w_m \, \mathrm{CE}\Big(y, \mathrm{softmax}\Big(
        \frac{1}{m} \sum_{i=1}^{m} z_i \Big)\Big), \qquad \sum_m w_m = 1 \\]

    The m-th loss reaches the logits of each of its members with the factor w_m / m. With equal
    weights the single first member would count most, and the ensemble of all would be worse for
    it. So by default \\( w_m \propto m^2 \\): to a member, the losses count in proportion to m.
    Not in the paper, which trains new members for each M.

    # Arguments
        prefix_weights: \\( w_1 ... w_M \\) up to a common factor; `None`: the default.
    """

    name = "nested_fusion"

    def __init__(self, prefix_weights: Sequence[float] | None = None) -> None:
        self._prefix_weights = prefix_weights

    def combinations(self, members: int) -> dict[str, int]:
        prefixes = {prefix_output(count): count for count in range(1, members)}
        return {**prefixes, ENSEMBLE_OUTPUT: members}

    def loss_weights(self, members: int) -> dict[str, float] | None:
        """# Raises
        EnsembleError: if the weights given are not M numbers from 0 on with a positive sum.
        """
        given = self._prefix_weights
        weights = np.arange(1, members + 1) ** 2.0 if given is None else np.asarray(given, float)
        if (
            weights.shape != (members,)
            or not (weights >= 0).all()
            or not 0 < weights.sum() < np.inf
        ):
            raise EnsembleError(
                f"`prefix_weights` must be {members} numbers, one for the first m members of each "
                f"m from 1 to {members}, none below 0 and not all 0. Received: {given}."
            )
        return dict(zip(self.combinations(members), (weights / weights.sum()).tolist()))

    def with_prefix_weights(self, weights: Sequence[float]) -> Scheme:
        return type(self)(weights)


class SampledNestedFusion(NestedFusion):
    r"""As `NestedFusion`, but each step trains one m alone, drawn with probability w_m.

    The loss of a step is that of the m drawn, so its expectation is the weighted sum. The draw
    reaches Keras as sample weights 1 / w_m for the output of that m and 0 for the others; without
    sample weights, as in validation, the loss is the sum itself.
    """

    name = "sampled_nested_fusion"

    def sample_weights(self, members: int, examples: int, seed: int) -> SampleWeights | None:
        weights = self.loss_weights(members)
        assert weights is not None
        probabilities = tf.constant([*weights.values()], tf.float32)

        def draw(indices: tf.Tensor, step_seed: tf.Tensor) -> tf.Tensor:
            drawn = tf.random.stateless_categorical(
                tf.math.log(probabilities)[tf.newaxis], 1, step_seed
            )[0]
            one = tf.one_hot(drawn[0], members)
            weights = tf.math.divide_no_nan(one, probabilities)
            return tf.repeat(weights[:, tf.newaxis], tf.size(indices), axis=1)

        return draw


class Voting(Scheme):
    """Independent members, soft vote."""

    name = "voting"


class HardVoting(Scheme):
    """Independent members, majority vote; ties go to the class with the lower index."""

    name = "hard_voting"

    def combine(
        self, logits: Sequence[tf.Tensor], weights: Sequence[float] | None = None
    ) -> tf.Tensor:
        stacked = tf.stack(logits)
        votes = tf.one_hot(tf.argmax(stacked, axis=-1), tf.shape(stacked)[-1], dtype=stacked.dtype)
        return _mean(votes, weights)


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


class Boosting(Scheme):
    r"""Gradient boosting: each member is fitted to what the members before it leave over.

    \\[ F_i(x) = F_{i-1}(x) + \nu f_i(x), \qquad F_0(x) = 0 \\]

    Member i regresses, by squared error, the pseudo-residual
    \\( \text{onehot}(y) - \text{softmax}(F_{i-1}(x)) \\), the negative gradient of the
    cross-entropy. The weights of the combination are the shrinkage \\( \nu \\). Members start from
    the pretrained backbone, but with a linear layer of zeros (where it is their own): the
    backbone's fits labels, and a member that says 0 leaves the sum as it is.

    As in the paper's library, members are added as they were fitted, without a line search.
    Logits that approximate residuals are less than 1 in size, so a few of them sum to flat
    probabilities (a poor NLL), and later members see almost the residual of the first. The paper
    reports the worst accuracy of all its schemes for it, 35 to 37 % on CIFAR-100.
    """

    name = "boosting"
    training: Training = "in_turn"

    def combine(
        self, logits: Sequence[tf.Tensor], weights: Sequence[float] | None = None
    ) -> tf.Tensor:
        stacked = tf.stack(logits)
        weights = [1.0] * len(logits) if weights is None else weights
        return tf.nn.softmax(tf.tensordot(tf.constant(weights, stacked.dtype), stacked, 1))


class SoftBoosting(Boosting):
    r"""Gradient boosting with all members trained together.

    The residuals are those of `Boosting`, of the members before as they are at this step, and
    count as constants: each member fits its own. The loss is the sum of the squared errors

    \\[ L = \sum_{i=1}^{M} \frac{1}{K} \big\| f_i(x) - \text{onehot}(y)
        + \text{softmax}(F_{i-1}(x)) \big\|_2^2 \\]

    of logits of K classes. One training instead of M, in the memory of M members.
    """

    name = "soft_boosting"
    training = "joint"
    independent = False

    def losses(self, members: int) -> dict[str, keras.losses.Loss]:
        """# Raises
        EnsembleError: always. Keras shows a loss one output, and this one needs all members'.
        """
        raise EnsembleError(
            f"The scheme {self.name!r} has one loss over the logits of all members, not one for "
            "each output: use `larq-ensemble train`, or `larq_ensemble.training.ensemble.train_ensemble`."
        )


class Snapshot(Scheme):
    r"""The minima that one training passes through under a cyclic learning rate.

    \\[ \alpha(t) = \frac{\alpha_0}{2} \left( \cos \frac{\pi (t \bmod T_c)}{T_c} + 1 \right) \\]

    at step t in cycles of \\( T_c \\) steps. Member i is what the network is at the end of cycle
    i, and where cycle i + 1 starts. The optimizer's moments start anew with each cycle.
    """

    name = "snapshot"
    training = "in_turn"
    jitter = 0.0
    independent = False


class FastGeometric(Snapshot):
    r"""Fast geometric ensembling: short cycles that leave a minimum and come back to another.

    \\[ \alpha(t) = \alpha_2 + (\alpha_1 - \alpha_2) \left( 1 - \left|
        \frac{2 (t + 1)}{T_c} - 1 \right| \right) \\]

    at step t = 0, 1, ... of a cycle of \\( T_c \\) steps: up from \\( \alpha_2 \\) to
    \\( \alpha_1 \\) and down to \\( \alpha_2 \\) at the last step. Otherwise as `Snapshot`.

    The triangle is that of Garipov et al., which begins at its top and so gives the first member
    half a cycle. Here it begins where the pretrained network stands: all get a whole one.
    """

    name = "fast_geometric"


class Adversarial(Scheme):
    r"""Independent members, each also trained on the images that a small change makes hardest.

    \\[ L = \mathrm{CE}(y, f(x)) + \mathrm{CE}(y, f(x')), \qquad
        x' = x + \epsilon \, \text{sign} \, \nabla_x \mathrm{CE}(y, f(x)) \\]

    by the fast gradient sign method, with each member's own gradient: so each sees other images.
    \\( \epsilon \\) is `EPSILON` times the range of a pixel, 255 in images of 8 bits; after the
    normalization of a data set, that over its standard deviation of the channel. As in
    Lakshminarayanan et al. \\( x' \\) is not clipped to the range; Ensemble-PyTorch clips it.
    """

    name = "adversarial"
    training = "in_turn"
    EPSILON = 0.01


class AdaBoost(Scheme):
    r"""SAMME, the multi-class AdaBoost, as BENN applies it to binarized networks.

    Member i is trained with a weight for each example. From its weighted error \\( e_i \\) on the
    training images (not augmented) follow its own weight in the combination, of K classes,

    \\[ \alpha_i = \log \frac{1 - e_i}{e_i} + \log(K - 1) \\]

    and the examples' next weights: those that it gets wrong are multiplied by
    \\( \exp(\alpha_i) \\), then all are scaled to a mean of 1.

    Two limits keep every member usable: the error counts as at least half an example
    (\\( 1 / 2n \\) of n), so that a perfect member weighs much but not infinitely; and
    \\( \alpha_i \\) is at least `MIN_WEIGHT`, so that a member no better than chance
    (\\( e_i \ge 1 - 1/K \\)) hardly counts and leaves the examples' weights as they are.
    """

    name = "adaboost"
    training = "in_turn"
    MIN_WEIGHT = 1e-3

    def reweighted(
        self, weights: np.ndarray, wrong: np.ndarray, classes: int
    ) -> tuple[float, np.ndarray]:
        """The weight of a member, and the examples' weights for the next one.

        # Arguments
            weights: floats [n], those that the member was trained with.
            wrong: booleans [n], the examples that it gets wrong.
            classes: K.

        # Returns
            The member's weight, and float64 [n] with a mean of 1.
        """
        least = 1 / (2 * len(wrong))
        error = float(np.clip(np.average(wrong, weights=weights), least, 1 - least))
        alpha = max(math.log((1 - error) / error * (classes - 1)), self.MIN_WEIGHT)
        following = weights * np.exp(alpha * wrong)
        return alpha, following / following.mean()


class StochasticRounding(Scheme):
    """Members whose binary filters are random roundings of the same real-valued weights.

    See `larq_ensemble.ensembles.rounding`. The filters are each member's own and stay as they were drawn;
    what else the sharing policy leaves to the members is trained, each on its own loss.
    """

    name = "stochastic_rounding"
    training = "in_turn"
    rounded = True


def _mean(values: Any, weights: Sequence[float] | None) -> tf.Tensor:
    """`sum_i w_i v_i / sum_i w_i` of tensors of one shape; `None`: their plain mean."""
    stacked = tf.stack(values)
    if weights is None:
        return tf.reduce_mean(stacked, axis=0)
    return tf.tensordot(tf.constant(weights, stacked.dtype), stacked, 1) / sum(weights)


SCHEMES: Registry[Scheme] = Registry("scheme")
for _scheme in (
    Fusion(),
    NestedFusion(),
    SampledNestedFusion(),
    Voting(),
    HardVoting(),
    Bagging(),
    BatchBagging(),
    Boosting(),
    SoftBoosting(),
    Snapshot(),
    FastGeometric(),
    Adversarial(),
    AdaBoost(),
    StochasticRounding(),
):
    SCHEMES.register(_scheme.name, _scheme)
