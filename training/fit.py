"""Training with Keras `fit`: checkpoints, logs, and going on after an interruption."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from typing import Any

from larq_ensemble.files import write_text
from larq_ensemble.keras import keras, tf
from larq_ensemble.runs import Run
from training.pipeline import Batches
from training.recipes import Recipe


def adam(recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Adam without weight decay, its rate decaying linearly over all steps of the recipe."""
    return keras.optimizers.Adam(
        keras.optimizers.schedules.PolynomialDecay(
            recipe.lr,
            decay_steps=max(1, recipe.epochs * steps_per_epoch),
            end_learning_rate=recipe.end_lr,
        ),
        beta_1=recipe.beta_1,
        beta_2=recipe.beta_2,
    )


def fit(
    model: keras.Model,
    batches_from: Callable[[int], Batches],
    validation: tf.data.Dataset | None,
    *,
    run: Run,
    epochs: int,
    verbose: int | str = "auto",
    callbacks: tuple[keras.callbacks.Callback, ...] = (),
) -> dict[str, Any]:
    """Trains a compiled model to `epochs`, from the last checkpoint of `run` if it has one.

    A checkpoint after each epoch holds weights, optimizer (with its step count) and the states
    of the dropout layers, so a training that was killed loses at most the epoch in progress and
    goes on as if nothing had happened.

    # Arguments
        batches_from: (initial epoch) -> the stream from there.
        validation: evaluated after each epoch.
        run: where logs and checkpoints go.

    # Returns
        `{"initial_epoch", "seconds", "examples_per_step_seconds"}` of this call.
    """
    epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer, epoch=epoch)
    manager = tf.train.CheckpointManager(checkpoint, str(run.checkpoints_path), max_to_keep=2)
    if manager.latest_checkpoint:
        model.optimizer.build(model.trainable_variables)
        checkpoint.restore(manager.latest_checkpoint).assert_existing_objects_matched()
    initial_epoch = int(epoch.numpy())
    _keep_rows(run, initial_epoch)

    def save(index: int, logs: dict[str, float] | None = None) -> None:
        epoch.assign(index + 1)
        manager.save(checkpoint_number=index + 1)

    timer = EpochTimer()
    if initial_epoch < epochs:
        batches = batches_from(initial_epoch)
        model.fit(
            batches.stream,
            epochs=epochs,
            initial_epoch=initial_epoch,
            steps_per_epoch=batches.steps_per_epoch,
            validation_data=validation,
            verbose=verbose,
            callbacks=[
                LearningRateLogger(),
                timer,
                *callbacks,
                keras.callbacks.TerminateOnNaN(),
                keras.callbacks.CSVLogger(str(run.log_path), append=True),
                keras.callbacks.TensorBoard(str(run.tensorboard_path), write_graph=False),
                keras.callbacks.LambdaCallback(on_epoch_end=save),
            ],
        )
    return {"initial_epoch": initial_epoch, "steps_per_second": timer.steps_per_second}


class LearningRateLogger(keras.callbacks.Callback):
    """Adds to each epoch's logs the learning rate and the step count at its end."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        optimizer = self.model.optimizer
        logs["learning_rate"] = float(keras.backend.get_value(optimizer.learning_rate))
        logs["step"] = int(optimizer.iterations.numpy())


class EpochTimer(keras.callbacks.Callback):
    """Measures training steps a second, without the first step, which builds the graph."""

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


def _keep_rows(run: Run, epochs: int) -> None:
    """Drops log rows of epochs that no checkpoint covers: they will be trained again."""
    if not run.log_path.exists():
        return
    with open(run.log_path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    kept = rows[:1] + [row for row in rows[1:] if row and row[0].isdigit() and int(row[0]) < epochs]
    if epochs == 0:
        run.log_path.unlink()
        return
    write_text(run.log_path, "".join(",".join(row) + "\n" for row in kept))
