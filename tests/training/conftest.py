"""Networks and runs so small that tracing them, not training them, is what a test costs."""

import contextlib
import csv
import dataclasses
import shutil

import numpy as np
import pytest

from larq_ensemble.data.datasets import DATASETS, DataOptions
from larq_ensemble.network.architectures import MODELS, Architecture
from larq_ensemble.network.architectures.resnet import residual_block
from larq_ensemble.training import fit
from larq_ensemble.training.pretrain import pretrain
from larq_ensemble.training.recipes import Recipe


@pytest.fixture(scope="session", autouse=True)
def tiny():
    """The architecture `tiny`: a ResNet of one block, with a convolution in its shortcut."""
    MODELS._entries["tiny"] = Architecture(residual_block, (4, 8), (0, 1))
    yield "tiny"
    del MODELS._entries["tiny"]


@pytest.fixture(scope="session", autouse=True)
def stem():
    """The architecture `stem`: a convolution, a batch norm and a linear layer.

    For what has nothing to do with binarization: it is quicker to trace than `tiny`, and rounding
    changes no sign, so that losses can be compared closely.
    """
    MODELS._entries["stem"] = Architecture(residual_block, (4,), (0,), binary=False)
    yield "stem"
    del MODELS._entries["stem"]


@pytest.fixture(scope="session")
def few():
    """80 training images, of which 8 are held out, and 64 test images."""
    return DataOptions(limit_train=80, limit_test=64)


@pytest.fixture(scope="session")
def recipe():
    """Three epochs; with `few` each has three steps."""
    return Recipe(epochs=3, batch_size=24, lr=1e-2, dropout=0.0, source="test")


@pytest.fixture(scope="session")
def backbone(tiny, few, recipe, tmp_path_factory):
    """A backbone pretrained by `recipe` on `few` digits."""
    out = tmp_path_factory.mktemp("runs") / "backbone"
    return pretrain(tiny, "digits", out, recipe=recipe, data=few, verbose=0)[0]


@pytest.fixture(scope="session")
def stem_backbone(stem, few, recipe, tmp_path_factory):
    """The same of the network `stem`."""
    out = tmp_path_factory.mktemp("runs") / "stem"
    return pretrain(stem, "digits", out, recipe=recipe, data=few, verbose=0)[0]


@pytest.fixture
def no_data(monkeypatch):
    """Makes reading `digits` an error."""

    def read(data_dir):
        raise AssertionError("The data were read.")

    unreadable = dataclasses.replace(DATASETS["digits"], read=read)
    monkeypatch.setitem(DATASETS._entries, "digits", unreadable)


@pytest.fixture
def epochs_begun(monkeypatch):
    """The epochs that trainings have begun, as a list that grows."""
    begun = []
    original = fit.EpochTimer.on_epoch_begin

    def on_epoch_begin(self, epoch, logs=None):
        begun.append(epoch)
        original(self, epoch, logs)

    monkeypatch.setattr(fit.EpochTimer, "on_epoch_begin", on_epoch_begin)
    return begun


@pytest.fixture
def interrupt_at_step(monkeypatch):
    """A function that makes the training stop as by Ctrl-C after so many steps."""
    original = fit.EpochTimer.on_train_batch_end

    def arm(step):
        def on_train_batch_end(self, batch, logs=None):
            original(self, batch, logs)
            if int(self.model.optimizer.iterations.numpy()) == step:
                raise KeyboardInterrupt

        monkeypatch.setattr(fit.EpochTimer, "on_train_batch_end", on_train_batch_end)

    return arm


@pytest.fixture
def copy_at_step(monkeypatch):
    """A context in which a training copies its run after so many steps, as if killed there.

    A training that is interrupted there would be traced once more. Of trainings one after another
    the last that comes so far is copied.
    """
    original = fit.EpochTimer.on_train_batch_end

    @contextlib.contextmanager
    def copying(step, run, copy):
        def on_train_batch_end(self, batch, logs=None):
            original(self, batch, logs)
            if int(self.model.optimizer.iterations.numpy()) == step:
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(run, copy)

        with monkeypatch.context() as patch:
            patch.setattr(fit.EpochTimer, "on_train_batch_end", on_train_batch_end)
            yield

    return copying


@pytest.fixture(scope="session")
def read_log():
    """A function from a run to the rows of its log.csv, numbers as floats.

    Without validation data Keras writes "NA" for what it would have measured on them.
    """

    def read(run):
        with open(run.path / "log.csv", newline="", encoding="utf-8") as file:
            return [
                {name: float(value) for name, value in row.items() if value != "NA"}
                for row in csv.DictReader(file)
            ]

    return read


@pytest.fixture(scope="session")
def assert_same_training(read_log):
    """Asserts that two runs had the same steps and rates and, but for rounding, weights."""

    def check(actual, expected):
        actual_log, expected_log = read_log(actual), read_log(expected)
        for name in ("epoch", "step", "learning_rate"):
            assert [row[name] for row in actual_log] == [row[name] for row in expected_log]
        for row, expected_row in zip(actual_log, expected_log):
            assert row == pytest.approx(expected_row, rel=1e-3, abs=1e-4)
        pairs = zip(actual.model.get_weights(), expected.model.get_weights(), strict=True)
        for weight, expected_weight in pairs:
            np.testing.assert_allclose(weight, expected_weight, rtol=1e-3, atol=1e-4)

    return check
