"""The base class of all schemes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from larq_ensemble.ensembles.fused_models import fused_network
from larq_ensemble.ensembles.labels import Accuracy, CrossEntropy
from larq_ensemble.ensembles.names import ENSEMBLE_OUTPUT, member_output
from larq_ensemble.errors import EnsembleError, SettingsError
from larq_ensemble.keras import keras, tf

#: (indices int32 [batch], seed int64 [2]) -> float32 [rows, batch], a row for each loss.
SampleWeights = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

#: Options that sequential training does not support, whatever the scheme, and why.
UNSUPPORTED_SEQUENTIALLY = {
    "recompute": "members are trained one after the other, so memory does not grow with their "
    "number",
    "bfloat16": "it is for members that are trained together",
    "label_smoothing": "it is for members that are trained together",
    "teacher": "it teaches members that are trained together",
    "keep_pretrained": "each member is trained in its turn, the first one too",
    "distribute": "members that are trained one after the other are trained on one device",
}


@dataclass(frozen=True)
class Stage:
    """The state of sequential training before it trains a member.

    # Arguments
        member: the member's number.
        so_far: returns the ensemble of the members before; call it for `member` above 0 only.
        shrinkage: for boosting, the weight of each member.
        pixel_range: difference between the brightest and the darkest pixel of the normalized
            images, a number or one per channel.
    """

    member: int
    so_far: Callable[[], keras.Model]
    shrinkage: float = 1.0
    pixel_range: float | np.ndarray = 1.0


class Scheme:
    """How members are trained and combined. The base class trains independent members, soft vote.

    A subclass overrides what differs and is registered in `SCHEMES`. The NumPy form of its
    combination, for devices, goes to `larq_ensemble.runtime.combination`.

    # Attributes
        name: the key in `SCHEMES` and in `COMBINATIONS`.
        jitter: default size of the noise on members' initial weights. Members that start equal
            and see the same batches would stay equal.
        independent: whether members may see different batches (one input per member).
        sequential: whether members must be trained one after the other.
        rounded: whether members own their binary filters, drawn by stochastic rounding and
            frozen, whatever the sharing policy says of those layers.
        combined_loss: whether the loss is of the members' combination, as in fusion.
        fixed_sample: whether `sample_weights` depends on the examples' numbers only, not on the
            step.
        draws: whether `drawn_weights` weighs the examples of each of the `losses`.
        subsamples: whether `sample_weights` are 0 or one number for the whole batch. A member that
            is trained alone is then given only the examples whose weight is not 0.
        changes_loss_inputs: whether the losses are given something other than the outputs, see
            `loss_inputs`.
        continues: whether a member starts from the weights of the one before, see `start`.
        reweights: whether the sample weights of a member follow from the errors of the members
            before, see `reweighted`.
        unsupported: training options that the scheme does not support, and why.
    """

    name: str
    jitter: float = 0.1
    independent: bool = True
    sequential: bool = False
    rounded: bool = False
    combined_loss: bool = False
    fixed_sample: bool = False
    draws: bool = False
    subsamples: bool = False
    changes_loss_inputs: bool = False
    continues: bool = False
    reweights: bool = False
    unsupported: ClassVar[Mapping[str, str]] = {
        "prefix_weights": "it has no losses of the first m members, as nested_fusion has",
        "shrinkage": "it belongs to 'boosting' and 'soft_boosting'",
        "patience": "it belongs to 'boosting' and 'adaboost', whose members build on those before "
        "them",
    }

    # Combination

    def combine(
        self, logits: Sequence[tf.Tensor], weights: Sequence[float] | None = None
    ) -> tf.Tensor:
        """Combines the members' logits.

        # Arguments
            logits: of each member, [n, classes].
            weights: one positive number per member; `None`: all the same.

        # Returns
            Probabilities [n, classes].
        """
        return weighted_mean([tf.nn.softmax(member) for member in logits], weights)

    def combinations(self, members: int) -> dict[str, int]:
        """Output name -> m, for each output that combines the first m members."""
        return {ENSEMBLE_OUTPUT: members}

    # Options

    def check(self, *, in_turn: bool = False, **options: Any) -> None:
        """Checks that the scheme supports the training options that are set.

        # Arguments
            in_turn: train members sequentially, although the scheme does not need it.
            options: by name; an option that is `None` or `False` is not set.

        # Raises
            EnsembleError: for one that the scheme, or sequential training, does not support.
        """
        unsupported = dict(self.unsupported)
        if self.sequential or in_turn:
            unsupported |= UNSUPPORTED_SEQUENTIALLY
        for name, value in {"in_turn": in_turn, **options}.items():
            if value is not None and value is not False and name in unsupported:
                raise SettingsError(
                    f"`{name}` does not go with the scheme {self.name!r}"
                    f"{', trained sequentially' if self.sequential or in_turn else ''}: "
                    f"{unsupported[name]}. Leave it out."
                )
        shrinkage, patience = options.get("shrinkage"), options.get("patience")
        if shrinkage is not None and not 0 < shrinkage < float("inf"):
            raise EnsembleError(f"`shrinkage` must be above 0, got {shrinkage}.")
        if patience is not None and patience < 1:
            raise EnsembleError(f"`patience` must be at least 1, got {patience}.")

    def with_prefix_weights(self, weights: Sequence[float]) -> Scheme:
        """This scheme with weights for the losses of the first m members, m = 1, 2, ...

        # Raises
            EnsembleError: for a scheme that has no such losses.
        """
        self.check(prefix_weights=weights)
        raise NotImplementedError

    # Building

    def initialize(
        self,
        own: Sequence[keras.layers.Layer],
        head: keras.layers.Layer | None,
        generator: np.random.Generator,
    ) -> None:
        """Changes the initial weights of a member, which are the pretrained ones with jitter.

        # Arguments
            own: the member's own layers that have weights.
            head: its last layer with weights, which makes the logits: its linear layer, or the
                batch norm behind it. `None` if that is shared.
            generator: for random numbers.
        """

    # Joint training

    def losses(self, members: int) -> dict[str, keras.losses.Loss]:
        """The losses by output, for `Model.compile`."""
        return {member_output(member): CrossEntropy(from_logits=True) for member in range(members)}

    def loss_weights(self, members: int) -> dict[str, float] | None:
        """The weights of the losses by output, for `Model.compile`; `None`: all 1."""
        return None

    def loss_inputs(
        self, outputs: Sequence[tf.Tensor], weights: Sequence[float] | None
    ) -> Sequence[tf.Tensor]:
        """The inputs of the losses, in place of the ensemble's outputs.

        # Arguments
            outputs: of the ensemble, the members' logits first.
            weights: the weight of each member in the combination.
        """
        return outputs

    def sample_weights(self, members: int, examples: int, seed: int) -> SampleWeights | None:
        """How often each member sees each example of a data set.

        # Returns
            `None` (every example once), or a function (indices int32 [batch], seed int64 [2]) ->
            float32 [rows, batch], a row for each of the `losses`.
        """
        return None

    def drawn_weights(
        self, members: int, inputs: Sequence[tf.Tensor], seed: int, step: tf.Tensor
    ) -> tf.Tensor | None:
        """How often each member sees each example of a batch, in a training step.

        # Arguments
            inputs: the images [batch, ...], once or for each member.
            seed: of the training.
            step: int64, the number of the training step.

        # Returns
            As the functions of `sample_weights`, which know the examples' numbers.
        """
        function = self.sample_weights(members, 0, seed)
        if function is None:
            return None
        step_seed = tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])
        return function(tf.range(tf.shape(inputs[0])[0]), step_seed)

    # Sequential training

    def member_epochs(self, epochs: int, members: int) -> int:
        """The epochs of each member, where `epochs` are asked for."""
        return epochs

    def possible_epochs(self, epochs: int, members: int) -> int:
        """The number that `member_epochs` takes at or below `epochs`, or the least above."""
        return epochs

    def learning_rate(
        self, highest: float, lowest: float, steps: int
    ) -> keras.optimizers.schedules.LearningRateSchedule | None:
        """The scheme's learning rate schedule over the `steps` of a member; `None`: the user's."""
        return None

    def start(self, network: keras.Model, member: int, previous: keras.Model) -> None:
        """For schemes that continue: sets the initial weights of a member after the first.

        # Arguments
            network: of the member, image -> logits.
            previous: the trained network of the member before.
        """
        raise NotImplementedError

    def objective(self, network: keras.Model, stage: Stage) -> tuple[keras.Model, dict[str, Any]]:
        """The model to compile and fit in order to train a member.

        # Arguments
            network: of the member, image -> logits.

        # Returns
            A model on the layers of the network, and its `loss` and `metrics` for
            `Model.compile`.
        """
        return fused_network(network), {
            "loss": CrossEntropy(from_logits=True),
            "metrics": [Accuracy()],
        }

    def member_weight(self, stage: Stage) -> float | None:
        """The weight of a trained member in the combination; `None`: all equal."""
        return None

    def reweighted(
        self, weights: np.ndarray, wrong: np.ndarray, classes: int
    ) -> tuple[float, np.ndarray]:
        """For schemes that reweight: a member's weight, and the next member's sample weights.

        # Arguments
            weights: floats [n], the sample weights of the trained member.
            wrong: booleans [n], whether it misclassifies the example.
            classes: K.

        # Returns
            The member's weight in the combination, and float64 [n] with a mean of 1.
        """
        raise NotImplementedError


def weighted_mean(values: Any, weights: Sequence[float] | None) -> tf.Tensor:
    """`sum_i w_i v_i / sum_i w_i` of tensors of one shape; `None`: their plain mean."""
    stacked = tf.stack(values)
    if weights is None:
        return tf.reduce_mean(stacked, axis=0)
    return tf.tensordot(tf.constant(weights, stacked.dtype), stacked, 1) / sum(weights)
