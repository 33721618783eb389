"""Trainings and searches killed before each of their file operations, then resumed.

A kill is emulated in this process: from some operation on, all of them raise. So what a program
would do to clean up fails, too, as after a real kill.
"""

import builtins
import dataclasses
import functools
import io
import os
import shutil

import numpy as np
import pytest

from larq_ensemble.data.datasets import DataOptions
from larq_ensemble.keras import keras, tf
from larq_ensemble.runs import RunConfig, load_run
from larq_ensemble.training import tuning
from larq_ensemble.training.distribution import Distribution
from larq_ensemble.training.fit import fit
from larq_ensemble.training.job import train_run
from larq_ensemble.training.pipeline import Batches
from larq_ensemble.training.tuning import Search, tune

EPOCHS = 3


class Killed(BaseException):
    pass


@dataclasses.dataclass
class Kills:
    """Counts file operations, and kills before operation number `at` and all that follow."""

    at: int | None = None
    count: int = 0

    def operation(self, original, is_one=lambda *_, **__: True):
        @functools.wraps(original)
        def operation(*arguments, **named):
            if is_one(*arguments, **named):
                self.count += 1
                if self.at is not None and self.count > self.at:
                    raise Killed
            return original(*arguments, **named)

        return operation


@pytest.fixture
def kills(monkeypatch):
    counted = Kills()

    def writes(file, mode="r", *_, **__):
        return set(mode) & set("wax+")

    for module, name in ((builtins, "open"), (io, "open")):
        monkeypatch.setattr(module, name, counted.operation(getattr(module, name), writes))
    for name in ("replace", "unlink", "mkdir"):  # fsync changes nothing that is seen here
        monkeypatch.setattr(os, name, counted.operation(getattr(os, name)))
    for owner, name in ((shutil, "rmtree"), (tf.train.Checkpoint, "write")):
        monkeypatch.setattr(owner, name, counted.operation(getattr(owner, name)))
    return counted


def at_each_operation(kills, run, total):
    """Kills `run(number, resume)` before each of its operations; then resumes and yields."""
    for at in range(total):
        kills.at, kills.count = at, 0
        with pytest.raises(Killed):
            run(at, False)
        kills.at = None
        yield at, run(at, True)


@pytest.fixture(scope="module")
def network():
    """Compiled once: a network for each kill would cost the time to trace it."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    return model, model.get_weights()


def leftovers_in(folder):
    """Temporary files and locks."""
    return [*folder.rglob(".*"), *folder.rglob("*temp*")]


def test_a_training_killed_anywhere_goes_on(kills, network, tmp_path, monkeypatch):
    model, initial = network
    trained = {"revision": 2, "prelu_gradient": "slope"}
    config = RunConfig("backbone", trained, {}, {"epochs": EPOCHS}, 0)
    images = tf.data.Dataset.from_tensors((np.eye(2, dtype=np.float32), np.ones((2, 1))))
    monkeypatch.setattr("larq_ensemble.training.fit._TensorBoard", FakeTensorBoard)

    def train(run, splits):
        model.set_weights(initial)
        for variable in model.optimizer.variables:
            if variable is not model.optimizer._learning_rate:
                variable.assign(tf.zeros_like(variable))
        fit(
            model,
            lambda epoch: Batches(images.repeat(), 1, 2, 2),
            None,
            run=run,
            epochs=EPOCHS,
            verbose=0,
        )
        return model, {}

    def run(number, resume):
        return train_run(
            tmp_path / str(number),
            config,
            untrained=lambda: model,
            load=lambda: (),
            train=train,
            figures={},
            distribution=Distribution(),
            resume=resume,
        )[0]

    run("first", False)  # so that nothing is imported or created for the first time below
    kills.count = 0
    expected = run("expected", False)
    total, log, weights = kills.count, expected.log_path.read_text(), model.get_weights()
    assert total > 20
    assert all(map(np.array_equal, expected.model.get_weights(), weights))
    for at, actual in at_each_operation(kills, run, total):
        assert actual.log_path.read_text() == log, at
        assert all(map(np.array_equal, model.get_weights(), weights)), at
        assert actual.model_path.stat().st_size == expected.model_path.stat().st_size
        assert leftovers_in(actual.path) == [], at
        assert len(list(actual.checkpoints_path.iterdir())) == 5, at
    assert load_run(tmp_path / "expected").finished_result() == {"epochs": EPOCHS}


class FakeTensorBoard(keras.callbacks.Callback):
    """Writes nothing: TensorBoard's files are only ever added to."""

    def __init__(self, *_, **__):
        super().__init__()


def test_a_search_killed_anywhere_goes_on(kills, backbone, tmp_path, monkeypatch):
    data = DataOptions(limit_train=80, limit_test=0)
    search = Search(2, 5, ("fusion", "voting"), ("fusion", "c2"), data, recipe="short")
    monkeypatch.setattr(tuning, "free_networks", lambda: None)
    monkeypatch.setattr(tuning, "_check_validation", lambda *_: None)
    monkeypatch.setattr(
        tuning,
        "train_ensemble",
        lambda *_, recipe, **__: (None, {"validation_top1": 100 * recipe.lr}),
    )

    def run(number, resume):
        out = tmp_path / f"search[{number}]"
        return tune(backbone, out, search, trials=2, resume=resume, progress=lambda line: None)

    def settings(found):
        return [dataclasses.replace(trial, run="") for trial in found[1]]

    kills.count = 0
    expected = run("expected", False)
    total = kills.count
    assert total > 20
    for at, actual in at_each_operation(kills, run, total):
        assert settings(actual) == settings(expected), at
        assert actual[0] == expected[0]
        assert leftovers_in(tmp_path / f"search[{at}]") == [], at
