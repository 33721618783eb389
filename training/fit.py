"""Training with Keras `fit`: checkpoints, logs, resuming after an interruption."""

from __future__ import annotations

import contextlib
import csv
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from larq_ensemble.checkpoints import Checkpoints, writing
from larq_ensemble.data.streams import reading
from larq_ensemble.errors import EnsembleError, SettingsError, check_seed
from larq_ensemble.files import write_text
from larq_ensemble.keras import keras, tf
from larq_ensemble.models.functional import drawing_layers
from larq_ensemble.progress import Work, working
from larq_ensemble.runs import Run
from larq_ensemble.training.distribution import Distribution
from larq_ensemble.training.optimizer import OneOperatorAdam
from larq_ensemble.training.pipeline import Batches
from larq_ensemble.training.recipes import Recipe

#: (highest, lowest, steps) -> a learning rate schedule for `steps`; `None`: the recipe's.
LearningRate = Callable[
    [float, float, int], "keras.optimizers.schedules.LearningRateSchedule | None"
]


def adam(
    recipe: Recipe, steps_per_epoch: int, *, learning_rate: LearningRate | None = None
) -> keras.optimizers.Optimizer:
    """Adam or, with weight decay, AdamW, with a learning rate schedule over the recipe's steps.

    As `recipe` says, the rate falls at every step or only between epochs, after a warm-up.

    # Arguments
        learning_rate: the schedule, as `Scheme.learning_rate`; `None`: linear decay from `lr` to
            `end_lr`.
    """
    steps = max(1, recipe.epochs * steps_per_epoch)
    rate = None if learning_rate is None else learning_rate(recipe.lr, recipe.end_lr, steps)
    if rate is None:
        rising = min(round(recipe.warmup_epochs * steps_per_epoch), steps - 1)
        rate = LinearDecay(
            recipe.lr,
            decay_steps=steps - rising,
            end_learning_rate=recipe.end_lr,
            constant_steps=steps_per_epoch if recipe.decay == "epoch" else 1,
        )
        rate = WarmUp(rate, rising) if rising else rate
    return OneOperatorAdam(
        rate,
        beta_1=recipe.beta_1,
        beta_2=recipe.beta_2,
        epsilon=recipe.epsilon,
        weight_decay=recipe.weight_decay or None,
    )


@keras.utils.register_keras_serializable("larq_ensemble")
class LinearDecay(keras.optimizers.schedules.PolynomialDecay):
    """Linear decay that falls only every `constant_steps` steps."""

    def __init__(self, *args: Any, constant_steps: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.constant_steps = constant_steps

    def __call__(self, step: Any) -> tf.Tensor:
        return super().__call__(step // self.constant_steps * self.constant_steps)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "constant_steps": self.constant_steps}


@keras.utils.register_keras_serializable("larq_ensemble")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly to the first rate of another schedule, which follows.

    # Arguments
        schedule: the other schedule.
        steps: S; step t = 0, 1, ... below S has the rate schedule(0) * (t + 1) / S.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, steps: int):
        self.schedule, self.steps = schedule, steps

    def __call__(self, step: Any) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        risen = tf.minimum((step + 1) / self.steps, 1.0)
        return self.schedule(tf.maximum(step - self.steps, 0.0)) * risen

    def get_config(self) -> dict[str, Any]:
        schedule = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WarmUp:
        schedule = keras.optimizers.schedules.deserialize(config["schedule"])
        return cls(schedule, config["steps"])


@contextlib.contextmanager
def generators_as_before() -> Iterator[None]:
    """Gives Keras's setting that `set_seed` changes back its value at the end of the block.

    The setting holds for the whole program: without this, a training would change how layers draw
    that the caller builds after it.
    """
    was_enabled = keras.backend.experimental.is_tf_random_generator_enabled()
    try:
        yield
    finally:
        _enable_generators(was_enabled)


def _enable_generators(on: bool) -> None:
    settings = keras.backend.experimental
    (settings.enable_tf_random_generator if on else settings.disable_tf_random_generator)()


def set_seed(seed: int, dropout: float | None) -> None:
    """Seeds the initializers and dropout; call it before building the network.

    Keras then keeps the random state of dropout in a variable, which a checkpoint can hold. By
    default that state is in the graph, and a resumed training could not restore it. Call it within
    `generators_as_before`.

    # Arguments
        seed: the seed.
        dropout: the rate; 0: no layer drops anything; `None`: as the network has it.
    """
    keras.utils.set_random_seed(check_seed(seed))
    _enable_generators(dropout is None or dropout > 0)


def keep_random_states(model: keras.Model) -> None:
    """Has layers that were built before `set_seed` keep their random state in a variable, too."""
    for layer in drawing_layers(model):
        generator = layer._random_generator
        if getattr(generator, "_rng_type", None) == "legacy_stateful":
            layer._random_generator = type(generator)(generator._seed, rng_type="stateful")
            layer._random_generator._maybe_init()


def fit(
    model: keras.Model,
    batches_from: Callable[[int], Batches],
    validation: tf.data.Dataset | None,
    *,
    run: Run,
    epochs: int,
    distribution: Distribution | None = None,
    verbose: int | str = "auto",
    callbacks: tuple[keras.callbacks.Callback, ...] = (),
) -> dict[str, Any]:
    """Trains a compiled model to `epochs`, from the last checkpoint of `run` if it has one.

    After each epoch a checkpoint saves the weights, the optimizer with its step count, and the
    random states of dropout, noise and other layers that draw by Keras's generators. A killed
    training loses at most the epoch in progress, and resuming it gives the same result as no
    interruption.

    # Arguments
        model: built after `set_seed`.
        batches_from: (initial epoch) -> the stream from there.
        validation: evaluated after each epoch.
        run: where logs and checkpoints go.
        distribution: the devices. `model` is what its `replicate` returned, compiled in its scope.

    # Returns
        `{"initial_epoch", "steps_per_second"}` of this call; the latter is `None` if no epoch was
        left to train.

    # Raises
        EnsembleError: if training diverges, no existing checkpoint can be read, the directory is
            gone or full, or a batch can't be divided among the devices.
    """
    distribution = distribution or Distribution()
    state = training_state(model)
    epoch = state["epoch"]
    checkpoints = Checkpoints(run.checkpoints_path, **state)
    with distribution.scope():
        create_variables(model)
        checkpoints.restore()
    initial_epoch = distribution.agree(int(epoch.numpy()), "the checkpoints they see")
    logging: list[keras.callbacks.Callback] = []
    if distribution.chief:
        run.checkpoints_path.parent.mkdir(exist_ok=True)  # of a member
        run.remove_leftovers()
        checkpoints.tidy()
        _keep_rows(run, initial_epoch)
        logging = [
            _CSVLogger(str(run.log_path), append=True),
            _TensorBoard(str(run.tensorboard_path), write_graph=False),
        ]
    else:  # All hosts have to save, but only the chief's checkpoints are kept.
        temporary = tempfile.TemporaryDirectory(prefix="larq-ensemble-")
        checkpoints = Checkpoints(Path(temporary.name), **state)

    def save(index: int, logs: dict[str, float] | None = None) -> None:
        epoch.assign(index + 1)
        checkpoints.save(index + 1)

    timer = EpochTimer()
    if initial_epoch < epochs:
        batches = batches_from(initial_epoch)
        images = (epochs - initial_epoch) * batches.steps_per_epoch * batches.batch_size
        with working("training", images, unit="image") as work, reading():
            model.fit(
                distribution.split(batches),
                epochs=epochs,
                initial_epoch=initial_epoch,
                steps_per_epoch=batches.steps_per_epoch,
                validation_data=distribution.shard(validation),
                verbose=verbose,
                callbacks=[
                    StopWhenDiverged(),
                    LearningRateLogger(),
                    timer,
                    ProgressTeller(work, epochs, batches.batch_size),
                    *callbacks,
                    StopWhenGone(run),
                    *logging,
                    keras.callbacks.LambdaCallback(on_epoch_end=save),
                ],
            )
    return {"initial_epoch": initial_epoch, "steps_per_second": timer.steps_per_second}


def training_state(model: keras.Model) -> dict[str, Any]:
    """What a checkpoint of a training holds: the model, its optimizer, the number of finished
    epochs, and the random states of its layers, which Keras does not track.
    """
    return {
        "model": model,
        "optimizer": model.optimizer,
        "epoch": tf.Variable(0, dtype=tf.int64, trainable=False),
        # By number: Keras gives a network that is built again in a program other names.
        "random": [layer._random_generator for layer in drawing_layers(model)],
    }


def create_variables(model: keras.Model) -> None:
    """Creates those of a compiled model before its first step, which would be traced twice else."""
    model.optimizer.build(model.trainable_variables)
    if model.outputs:
        model.compiled_loss.build(model.output)


class StopWhenDiverged(keras.callbacks.Callback):
    """Stops training when the loss or a weight is not finite, before a checkpoint saves it.

    # Raises
        EnsembleError: after the step with such a loss, or after the epoch with such a weight.
    """

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        if not np.isfinite(logs["loss"]):
            self._fail(f"the loss is {logs['loss']} at step {batch + 1} of the epoch")

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        for weight in self.model.weights:
            if not np.isfinite(weight.numpy()).all():
                self._fail(f"{weight.name!r} holds values that are not finite")

    def _fail(self, reason: str) -> None:
        rate = float(keras.backend.get_value(self.model.optimizer.learning_rate))
        raise SettingsError(
            f"Training has diverged: {reason}, at a learning rate of {rate:.3g}. "
            "Train again with a lower `lr` and another `out`."
        )


class StopWhenGone(keras.callbacks.Callback):
    """Stops training when its directory was deleted, before a logger creates it again.

    # Raises
        EnsembleError: after the epoch in which it was deleted.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        self._run.check_exists()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._run.check_exists()


class LearningRateLogger(keras.callbacks.Callback):
    """Adds to each epoch's logs the learning rate of its last step and the steps so far."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        optimizer = self.model.optimizer
        logs["learning_rate"] = float(keras.backend.get_value(optimizer.learning_rate))
        logs["step"] = int(optimizer.iterations.numpy())


class ProgressTeller(keras.callbacks.Callback):
    """Tells of each training step as progress of `work`, which counts images."""

    def __init__(self, work: Work, epochs: int, batch_size: int) -> None:
        super().__init__()
        self._work, self._epochs, self._batch_size = work, epochs, batch_size

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._work.detail = f"epoch {epoch + 1} of {self._epochs}"

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._work.advance(self._batch_size)


class EpochTimer(keras.callbacks.Callback):
    """Measures training steps per second, without the first step, which builds the graph."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = 0.0
        self._steps = 0
        self._started: float | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._started = None

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        now = time.perf_counter()
        if self._started is not None:
            self._seconds += now - self._started
            self._steps += 1
        self._started = now

    @property
    def steps_per_second(self) -> float | None:
        return self._steps / self._seconds if self._steps else None


class _CSVLogger(keras.callbacks.CSVLogger):
    """The standard logger; its errors name the file."""

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        with writing(self.filename):
            super().on_train_begin(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        with writing(self.filename):
            super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        with writing(self.filename):
            super().on_train_end(logs)


class _TensorBoard(keras.callbacks.TensorBoard):
    """The standard logger; its errors name the folder."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        with writing(self.log_dir):
            super().on_epoch_end(epoch, logs)

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        with writing(self.log_dir):
            super().on_test_end(logs)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        with writing(self.log_dir):
            super().on_train_end(logs)


def read_log(path: Path) -> list[list[str]]:
    """The header and the complete rows of a log; a kill may have cut the last one."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace").replace("\0", "")
    lines = text[: text.rfind("\n") + 1].splitlines()
    header, *rows = list(csv.reader(lines)) or [[]]
    complete = [row for row in rows if len(row) == len(header) and row[0].isdigit()]
    return [header, *complete] if header[:1] == ["epoch"] else []


def _keep_rows(run: Run, epochs: int) -> None:
    """Drops the log rows of epochs after the checkpoint: they will be trained again.

    # Raises
        EnsembleError: if there are rows, but no checkpoint.
    """
    header, *rows = read_log(run.log_path) or [[]]
    # A kill may come between a row and its checkpoint.
    if not epochs and len(rows) > 1:
        raise EnsembleError(
            f"{str(run.log_path)!r} has the rows of {len(rows)} epochs, but there is no checkpoint "
            f"in {str(run.checkpoints_path)!r}: restore them from a copy, or delete "
            f"{str(run.path)!r} to train again from the start."
        )
    kept = [row for row in rows if int(row[0]) < epochs]
    if len(kept) < epochs:
        warnings.warn(
            f"{str(run.log_path)!r} was damaged: it lacks {epochs - len(kept)} of the {epochs} "
            "epochs that were trained before.",
            stacklevel=2,
        )
    if kept:
        write_text(run.log_path, "".join(",".join(row) + "\n" for row in [header, *kept]))
    else:
        run.log_path.unlink(missing_ok=True)
