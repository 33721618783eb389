import dataclasses
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.cli import main
from larq_ensemble.console import progress
from larq_ensemble.data.datasets import DataOptions
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf
from larq_ensemble.runs import Run, RunConfig, load_run
from larq_ensemble.training import fit
from larq_ensemble.training.pretrain import _training_top1, pretrain
from larq_ensemble.training.recipes import Recipe

ROOT = Path(__file__).parents[2]

DROPOUT_STATE = "random/0/_generator/_state_var/.ATTRIBUTES/VARIABLE_VALUE"

# The command line, with the network `stem` of `conftest.py` among its models.
COMMAND_LINE = """
from larq_ensemble.cli import main
from larq_ensemble.network.architectures import MODELS, Architecture
from larq_ensemble.network.architectures.resnet import residual_block
MODELS.register("stem", Architecture(residual_block, (4,), (0,), binary=False))
main()
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def unfinished(stem_backbone, tmp_path):
    """A copy of the backbone's run as if it had been killed after its last checkpoint."""
    path = tmp_path / "run"
    shutil.copytree(stem_backbone.path, path)
    (path / "model.keras").unlink()
    (path / "result.json").unlink()
    return path


@pytest.fixture
def resume(stem, few, recipe):
    def run(path, **arguments):
        return pretrain(
            stem,
            "digits",
            path,
            **{"recipe": recipe, "data": few, "resume": True, "verbose": 0, **arguments},
        )

    return run


def test_an_interrupted_training_with_dropout_goes_on_as_if_nothing_had_happened(
    recipe, resume, tmp_path, monkeypatch, epochs_begun, interrupt_at_step, assert_same_training
):
    arguments = {
        "recipe": dataclasses.replace(recipe, epochs=4, dropout=0.4),
        "augment": "mix",
        "class_weights": "balanced",
    }
    expected, _ = resume(tmp_path / "expected", **arguments)
    epochs_begun.clear()

    interrupt_at_step(4)
    with pytest.raises(KeyboardInterrupt, match=r"Every finished epoch is saved in '.*run'"):
        resume(tmp_path / "run", **arguments)
    assert epochs_begun == [0, 1]
    interrupt_at_step(None)

    # This time between a row of the log and the checkpoint of the same epoch.
    def killed(self, number):
        if number == 3:
            raise RuntimeError("killed")
        save(self, number)

    save = fit.Checkpoints.save
    monkeypatch.setattr(fit.Checkpoints, "save", killed)
    with pytest.raises(RuntimeError, match="killed"):
        resume(tmp_path / "run", **arguments)
    monkeypatch.setattr(fit.Checkpoints, "save", save)
    assert epochs_begun == [0, 1, 1, 2]
    assert len((tmp_path / "run" / "log.csv").read_text().split()) == 1 + 3
    with pytest.raises(EnsembleError, match="training has not finished"):
        _ = load_run(tmp_path / "run").model

    for change, message in (
        ({"augment": "rand"}, "started with dataset.augmentation = .*'mixup': 0.2"),
        ({"class_weights": None}, "started with data.class_weights = 'balanced', not None"),
    ):
        with pytest.raises(EnsembleError, match=message):
            resume(tmp_path / "run", **{**arguments, **change})
    actual, _ = resume(tmp_path / "run", **arguments)
    assert epochs_begun == [0, 1, 1, 2, 2, 3]
    assert_same_training(actual, expected)
    states = [
        [
            tf.train.load_variable(str(run.checkpoints_path / f"ckpt-{epoch}"), DROPOUT_STATE)
            for epoch in (3, 4)
        ]
        for run in (actual, expected)
    ]
    assert np.array_equal(*states)
    assert not np.array_equal(*states[0])


@keras.utils.register_keras_serializable("test_fit")
class Widened(keras.layers.Layer):
    """Has a `rate` and draws nothing; the Dropout within it does."""

    def __init__(self, rate=1, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.inner = keras.layers.Dropout(0.4)

    def call(self, inputs, training=None):
        return self.inner(self.rate * inputs, training=training)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


def test_a_network_built_before_with_noise_and_layers_in_layers_resumes_as_if_nothing_had_happened(
    few, recipe, tmp_path, copy_at_step, epochs_begun, assert_same_training
):
    def network():
        keras.utils.set_random_seed(1)  # of the weights
        image = keras.Input((8, 8, 1))
        x = Widened(name="widened")(keras.layers.GaussianNoise(1.0)(image))
        return keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(x)))

    def trained(path, **arguments):
        arguments = {"recipe": dataclasses.replace(recipe, dropout=None), "data": few, **arguments}
        return pretrain(network(), "digits", path, verbose=0, **arguments)[0]

    with copy_at_step(4, tmp_path / "expected", tmp_path / "run"):
        expected = trained(tmp_path / "expected")
    epochs_begun.clear()
    assert_same_training(trained(tmp_path / "run", resume=True), expected)
    assert epochs_begun == [1, 2]


def test_dropout_is_in_effect(recipe, resume, stem_backbone, tmp_path):
    """Or the test above would say nothing about the state of dropout."""
    recipe = dataclasses.replace(recipe, epochs=0, dropout=0.4)
    model = resume(tmp_path / "run", recipe=recipe)[0].model
    images = np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype(np.float32)
    # Loaded anew, because calls in training mode change what batch norm keeps.
    without = load_run(stem_backbone.path).model
    for network, rate in ((model, 0.4), (without, 0.0)):
        assert network.get_layer("dropout").rate == rate
        first, second = (network(images, training=True).numpy() for _ in range(2))
        assert np.array_equal(first, second) == (rate == 0)
    kept = model.get_layer("dropout")(np.ones((10, 1000), np.float32), training=True).numpy()
    assert np.unique(kept) == pytest.approx([0, 1 / 0.6])
    # Four standard deviations of the share of 10,000.
    assert np.mean(kept == 0) == pytest.approx(0.4, abs=0.02)


def test_a_command_killed_in_mid_epoch_loses_at_most_that_epoch(
    stem, tmp_path, capsys, monkeypatch, assert_same_training
):
    out = tmp_path / "run"
    settings = {"epochs": 10, "batch-size": 8, "lr": 0.01, "dropout": 0.3}
    options = [str(item) for name, value in settings.items() for item in (f"--{name}", value)]
    command = ["pretrain", "--model", stem, *options, "--recipe", "short"]
    command += ["--limit-train", "160", "--limit-test", "32", "--out", str(out), "--resume"]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND_LINE, *command],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 500
    while not list(out.glob("checkpoints/ckpt-3.index")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (out / "model.keras").exists()

    # Here, which saves to import TensorFlow once more.
    monkeypatch.setattr(progress, "QUIET", 0)
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert not ended.value.code
    # Keras names the epochs that it trains, from 1.
    captured = capsys.readouterr()
    assert "Epoch 2/10" not in captured.out
    assert "Epoch 10/10" in captured.out
    # Not on a terminal: after two steps of 8 of the 144 images an estimate for all that is left.
    line = captured.err.splitlines()[0]
    assert re.fullmatch(
        r"training, epoch (\d+) of 10: 16 of [\d,]+ images, \S+ images/s, about .* left", line
    )
    assert "\r" not in captured.err

    recipe = Recipe(epochs=10, batch_size=8, lr=0.01, dropout=0.3, source="test")
    data = DataOptions(limit_train=160, limit_test=32)
    expected, _ = pretrain(
        stem, "digits", tmp_path / "expected", recipe=recipe, data=data, verbose=0
    )
    assert_same_training(load_run(out), expected)


def test_a_full_disk_and_a_directory_that_is_gone_are_one_clear_error(
    resume, tmp_path, monkeypatch
):
    """The disk is full after the first epoch; when it is resumed, the directory is deleted."""
    path = tmp_path / "run[1]"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def at_epoch(number, action):
        monkeypatch.setattr(
            fit.EpochTimer, "on_epoch_begin", lambda self, epoch, logs: epoch == number and action()
        )

    at_epoch(1, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1])))
    try:
        with pytest.raises(
            EnsembleError, match=r"Can't write to '.*run\[1\]/.*' \(File too large\)"
        ):
            resume(path)
        assert len(list(path.glob("checkpoints/ckpt-*.index"))) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    at_epoch(1, lambda: shutil.rmtree(path))
    with pytest.raises(EnsembleError, match=r"run\[1\]' is gone: it was deleted or moved"):
        resume(path)
    assert not path.exists()


def damage(path: Path, how: str) -> None:
    if how == "deleted":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2)


# In which ways checkpoints are damaged, `tests/larq_ensemble/test_checkpoints.py` goes through.


def test_a_damaged_checkpoint_costs_one_more_epoch(
    unfinished, stem_backbone, resume, epochs_begun, assert_same_training
):
    damage(unfinished / "checkpoints" / "ckpt-3.data-00000-of-00001", "truncated")
    actual, _ = resume(unfinished)
    assert epochs_begun == [2]
    assert_same_training(actual, stem_backbone)


def test_no_readable_checkpoint_is_one_clear_error(unfinished, resume):
    for path in unfinished.glob("checkpoints/*.index"):
        damage(path, "truncated")
    before = contents(unfinished)
    with pytest.raises(EnsembleError, match=r"None of the checkpoints in .* another directory"):
        resume(unfinished)
    assert contents(unfinished) == before


def test_the_index_file_is_not_needed(unfinished, stem_backbone, resume, epochs_begun):
    damage(unfinished / "checkpoints" / "checkpoint", "truncated")
    log = (unfinished / "log.csv").read_text()
    actual, _ = resume(unfinished)
    assert not epochs_begun  # all three are in the newest checkpoint
    assert (unfinished / "log.csv").read_text() == log
    assert np.array_equal(actual.model.get_weights()[0], stem_backbone.model.get_weights()[0])


def test_without_checkpoints_a_training_does_not_begin_anew(unfinished, resume, epochs_begun):
    shutil.rmtree(unfinished / "checkpoints")
    before = contents(unfinished)
    with pytest.raises(EnsembleError, match=r"the rows of 3 epochs, but there is no checkpoint"):
        resume(unfinished)
    assert not epochs_begun
    assert contents(unfinished) == before


@pytest.mark.parametrize(
    ("damaged", "kept"),
    [
        (b"", 0),
        (b"\xff\xfe\x00\x00", 0),
        (b"epoch,loss\n0,1.5\n1,1.2\n2,", 2),
        (b"epoch,loss\n0,1.5\n1,1.2\n2,1.1\n3,1.0\n", 3),
    ],
)
def test_a_damaged_log_is_mended_as_far_as_it_goes(tmp_path, recwarn, damaged, kept):
    run = Run(tmp_path, RunConfig("backbone", {}, {}, {}, 0))
    run.log_path.write_bytes(damaged)
    fit._keep_rows(run, 3)
    assert fit.read_log(run.log_path)[1:] == [["0", "1.5"], ["1", "1.2"], ["2", "1.1"]][:kept]
    assert run.log_path.exists() == bool(kept)
    lacking = [str(warning.message) for warning in recwarn]
    assert len(lacking) == (kept < 3)
    assert all(f"lacks {3 - kept} of the 3 epochs" in message for message in lacking)


def test_a_training_without_its_log_is_finished_without_what_only_the_log_had(
    unfinished, stem_backbone, resume, epochs_begun
):
    (unfinished / "log.csv").unlink()
    with pytest.warns(UserWarning, match="lacks 3 of the 3 epochs"):
        actual, result = resume(unfinished)
    assert not epochs_begun
    assert np.array_equal(actual.model.get_weights()[0], stem_backbone.model.get_weights()[0])
    expected = {"training_top1": None, "images_per_second": None}
    assert result == {**json.loads(stem_backbone.result_path.read_text()), **expected}


@pytest.mark.parametrize(
    ("log", "top1"),
    [
        ("epoch,accuracy,loss\n0,0.5,2\n1,0.75,1\n", 75.0),
        ("epoch,accuracy,loss\n0,0.5,2\n1,0.75,", None),  # the last epoch is cut off
        ("epoch,accuracy,loss\n0,0.5,2\n1,0.7x,1\n", None),
        ("epoch,accuracy,loss\n", None),
        ("epoch,accur?cy,loss\n0,0.5,2\n1,0.75,1\n", None),
        ("ep?ch,accuracy,loss\n0,0.5,2\n1,0.75,1\n", None),
        ("", None),
    ],
)
def test_the_accuracy_of_the_last_epoch_is_that_of_the_log(tmp_path, log, top1):
    run = Run(tmp_path, RunConfig("backbone", {}, {}, {"epochs": 2}, 0))
    run.log_path.write_text(log)
    assert _training_top1(run) == top1


def test_a_finished_run_is_returned_as_it_is(
    stem_backbone, resume, no_data, epochs_begun, tmp_path
):
    path = tmp_path / "run"
    shutil.copytree(stem_backbone.path, path)
    before = contents(path)
    run, result = resume(path)
    assert not epochs_begun
    assert contents(path) == before
    assert result["epochs"] == 3
    assert result["images_per_second"] > 0
    for weight, expected in zip(run.model.get_weights(), stem_backbone.model.get_weights()):
        assert np.array_equal(weight, expected)


def test_resuming_mends_a_damaged_model_file(stem_backbone, resume, epochs_begun, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(stem_backbone.path, path)
    damage(path / "model.keras", "truncated")
    with pytest.raises(EnsembleError, match=r"model.keras' can't be read .*Resume its training"):
        _ = load_run(path).model
    run, _ = resume(path)
    assert not epochs_begun
    for weight, expected in zip(run.model.get_weights(), stem_backbone.model.get_weights()):
        assert np.array_equal(weight, expected)


def test_a_training_that_diverges_ends_with_one_clear_error(recipe, resume, tmp_path):
    with pytest.raises(
        EnsembleError, match=r"Training has diverged: .* rate of \S+e\+\d+\. .*`lr`"
    ):
        resume(tmp_path / "run", recipe=dataclasses.replace(recipe, lr=1e25))
    assert not (tmp_path / "run" / "model.keras").exists()
    assert not (tmp_path / "run" / "result.json").exists()
    assert not list(tmp_path.glob("run/checkpoints/ckpt-*"))


def test_weights_that_are_no_numbers_reach_no_checkpoint():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="linear")])
    model.compile("sgd", "mse")
    callback = fit.StopWhenDiverged()
    callback.set_model(model)
    callback.on_train_batch_end(0, {"loss": 1.0})
    callback.on_epoch_end(0, {"loss": 1.0})
    with pytest.raises(EnsembleError, match="the loss is inf at step 3 of the epoch"):
        callback.on_train_batch_end(2, {"loss": np.inf})
    model.layers[0].kernel.assign([[1.0], [np.nan]])
    with pytest.raises(EnsembleError, match="linear/kernel"):
        callback.on_epoch_end(0, {"loss": 1.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.5}, "recipe.lr = 0.01, not 0.5"),
        ({"epochs": 9}, "recipe.epochs = 3, not 9"),
    ],
)
def test_resuming_with_other_arguments(stem_backbone, resume, recipe, change, message):
    before = contents(stem_backbone.path)
    with pytest.raises(EnsembleError, match=f"was started with {message}"):
        resume(stem_backbone.path, recipe=dataclasses.replace(recipe, **change))
    with pytest.raises(EnsembleError, match="started with seed = 0, not 1"):
        resume(stem_backbone.path, seed=1)
    assert contents(stem_backbone.path) == before


def test_a_taken_directory_is_left_alone(stem_backbone, resume, tmp_path):
    before = contents(stem_backbone.path)
    with pytest.raises(EnsembleError, match="holds a run already"):
        resume(stem_backbone.path, resume=False)
    assert contents(stem_backbone.path) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(EnsembleError, match="holds other files"):
        resume(tmp_path)
    assert contents(tmp_path) == {"notes.txt": b"mine"}
