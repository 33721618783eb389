"""The steps that all trainings share: open the run directory, read the data, fit, write the run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from larq_ensemble.data.class_weights import ClassWeighting
from larq_ensemble.data.datasets import DataOptions, Dataset, Splits
from larq_ensemble.ensembles import copy_weights
from larq_ensemble.ensembles.loss_scaling import with_loss_scaling
from larq_ensemble.keras import keras
from larq_ensemble.runs import Run, RunConfig, load_run
from larq_ensemble.training.distribution import Distribution
from larq_ensemble.training.fit import LearningRate, adam, fit
from larq_ensemble.training.pipeline import (
    evaluation_batches,
    steps_per_epoch,
    training_batches,
)
from larq_ensemble.training.recipes import Recipe

Train = Callable[[Run, Splits], tuple[keras.Model, dict[str, Any]]]
Objective = Callable[[keras.Model], tuple[keras.Model, dict[str, Any]]]


def train_run(
    out: str | os.PathLike[str],
    config: RunConfig,
    *,
    untrained: Callable[[], keras.Model],
    load: Callable[[], Splits],
    train: Train,
    figures: dict[str, Any],
    distribution: Distribution,
    resume: bool,
) -> tuple[Run, dict[str, Any]]:
    """Trains and writes the run directory; with `resume` returns a finished run as it is.

    It checks the directory, reads the data, and only then creates the directory, so an error in
    reading leaves nothing behind.

    # Arguments
        untrained: returns the network of a run of 0 epochs; reads no data.
        load: reads the data.
        train: (run, data) -> the trained network, and entries of the result.
        figures: the result of a run of 0 epochs, without `"epochs"`.

    # Returns
        The run and its result.

    # Raises
        EnsembleError: if the directory is in use, the data can't be read or another host has ended,
            and as `train`.
        KeyboardInterrupt: with what is saved as its message.
    """
    with distribution.together():
        run = distribution.open_run(out, config, resume=resume)
        if (finished := run.finished_result()) is not None:
            return run, finished
        epochs = config.recipe["epochs"]
        splits = load() if epochs else None
        with contextlib.ExitStack() as locks, saying_what_is_saved(run.path):
            distribution.create_run(out, config, resume=resume, until=locks)
            model, measured = (untrained(), {}) if splits is None else train(run, splits)
            result = {**figures, "epochs": epochs, **measured}
            if distribution.chief:
                run.save_model(model)
                run.save_result(result)
        return load_run(out), result


@contextlib.contextmanager
def saying_what_is_saved(folder: Path) -> Iterator[None]:
    """Gives a `KeyboardInterrupt` the message of what is saved, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.args = (
            f"Every finished epoch is saved in {str(folder)!r}: repeat this with `resume=True` to "
            "go on.",
        )
        raise


def load_splits(
    data: DataOptions, dataset: Dataset, split_seed: int, weighting: ClassWeighting
) -> Splits:
    """Reads the data, and checks that they allow the class weights.

    # Raises
        EnsembleError: if the data can't be read, or a class that is to be balanced has no training
            images.
    """
    splits = data.load(dataset, split_seed)
    weighting.by_class(splits.train.labels)
    return splits


def fit_images(
    model: keras.Model,
    splits: Splits,
    dataset: Dataset,
    *,
    run: Run,
    recipe: Recipe,
    objective: Objective,
    seed: int,
    verbose: int | str,
    distribution: Distribution | None = None,
    first_epoch: int = 0,
    learning_rate: LearningRate | None = None,
    inputs: int = 1,
    **streams: Any,
) -> float | None:
    """Compiles a network and trains it by a recipe, from the last checkpoint of `run`.

    # Arguments
        objective: (network) -> the model to fit, on the layers of the network, and its arguments
            of `compile`. On several devices it is called in the strategy's scope, with a replica.
        seed: of the images' order and augmentation.
        first_epoch: number of the first epoch in the stream of images.
        learning_rate: as for `larq_ensemble.training.fit.adam`.
        inputs, streams: as for `larq_ensemble.training.pipeline.training_batches`.

    # Returns
        Images a second; `None` if no epoch was left to train.
    """
    distribution = distribution or Distribution()
    batch_size = min(recipe.batch_size, len(splits.train))
    replica = distribution.replicate(model)
    with distribution.scope():
        trained, compiled = objective(replica)
        steps = steps_per_epoch(len(splits.train), batch_size, drop_remainder=recipe.drop_remainder)
        optimizer = adam(recipe, steps, learning_rate=learning_rate)
        trained.compile(with_loss_scaling(optimizer, trained), **compiled)
    fitting = Fitting(
        trained, splits, dataset, run, recipe, batch_size, seed, inputs, streams, distribution,
        first_epoch, verbose,
    )  # fmt: skip
    steps_per_second = _FITTED_BY.get()(fitting)
    if replica is not model:
        copy_weights(replica, model)
    return None if steps_per_second is None else steps_per_second * batch_size


@dataclass(frozen=True)
class Fitting:
    """A compiled model and what it is trained on; arguments as for `fit_images`.

    # Arguments
        model: the model to fit.
        streams: further arguments of `larq_ensemble.training.pipeline.training_batches`.
    """

    model: keras.Model
    splits: Splits
    dataset: Dataset
    run: Run
    recipe: Recipe
    batch_size: int
    seed: int
    inputs: int
    streams: dict[str, Any]
    distribution: Distribution
    first_epoch: int
    verbose: int | str

    def by_keras(self) -> float | None:
        """Trains the model by Keras's `fit`.

        # Returns
            Steps a second; `None` if no epoch was left to train.
        """
        splits, dataset = self.splits, self.dataset
        timing = fit(
            self.model,
            lambda epoch: training_batches(
                splits.train,
                dataset,
                batch_size=self.batch_size,
                epochs=self.first_epoch + self.recipe.epochs,
                initial_epoch=self.first_epoch + epoch,
                seed=self.seed,
                inputs=self.inputs,
                drop_remainder=self.recipe.drop_remainder,
                **self.streams,
            ),
            evaluation_batches(splits.validation, dataset, inputs=self.inputs)
            if len(splits.validation)
            else None,
            run=self.run,
            epochs=self.recipe.epochs,
            distribution=self.distribution,
            verbose=self.verbose,
        )
        return timing["steps_per_second"]


_FITTED_BY: ContextVar[Callable[[Fitting], float | None]] = ContextVar(
    "fitted by", default=Fitting.by_keras
)


@contextlib.contextmanager
def fitted_by(function: Callable[[Fitting], float | None]) -> Iterator[None]:
    """Within the block `fit_images` trains by `function`, which returns what `by_keras` does."""
    token = _FITTED_BY.set(function)
    try:
        yield
    finally:
        _FITTED_BY.reset(token)
