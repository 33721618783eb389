"""Trainings that run under JAX are those of Keras's `fit`.

Those that run JAX itself need it, or a Python that has it in the environment variable JAX_PYTHON.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

from larq_ensemble.checkpoints import Checkpoints
from larq_ensemble.cli import cli
from larq_ensemble.data.datasets import DATASETS, Augmentation, DataOptions
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import tf
from larq_ensemble.network.architectures import MODELS, Architecture
from larq_ensemble.network.architectures.resnet import residual_block
from larq_ensemble.runs import load_run
from larq_ensemble.training import job
from larq_ensemble.training.distillation import Distillation
from larq_ensemble.training.ensemble import train_ensemble
from larq_ensemble.training.fit import create_variables, read_log, training_state
from larq_ensemble.training.pretrain import pretrain as pretrain_run
from larq_ensemble.training.recipes import Recipe
from larq_ensemble.training.under_jax import run
from larq_ensemble.training.under_jax.export import (
    check_exportable,
    data_of,
    epoch_of,
    export,
    not_compiled,
    state_of,
    value_of,
)

#: 72 training images: two steps and one of 16 images, in which the learning rate stays.
IMAGES, EPOCHS = 72, 2
ARGUMENTS = {
    "dataset": "digits",
    "limit-train": 80,
    "limit-test": 20,
    "epochs": EPOCHS,
    "batch-size": 28,
    "lr": 1e-3,
    "dropout": 0,
}


@pytest.fixture(scope="module")
def real(tiny):
    """The real-valued twin of `tiny`: signs would amplify what is rounded otherwise.

    Images are cropped and mirrored.
    """
    digits = DATASETS["digits"]
    mirrored = dataclasses.replace(digits, augmentation=Augmentation(pad=1, flip=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS._entries, "digits", mirrored)
        real = dataclasses.replace(MODELS[tiny], binary=False)
        patch.setitem(MODELS._entries, "tiny_real", real)
        yield "tiny_real"


@pytest.fixture(scope="module")
def pretrain(real, tmp_path_factory):
    """(further arguments) -> the result of `larq-ensemble pretrain`, and the run."""
    folder = tmp_path_factory.mktemp("under_jax")

    def call(name, *arguments):
        out, result = folder / name, folder / f"{name}.json"
        options = ["--out", str(out), "--json", str(result), *arguments]
        given = [f"--{name}={value}" for name, value in {"model": real, **ARGUMENTS}.items()]
        cli.main(["pretrain", *given, *options], standalone_mode=False)
        return json.loads(result.read_text()), out

    return call


@pytest.fixture(scope="module")
def exported(pretrain, tmp_path_factory):
    """The folder of an exported training, its run, and the result of the command."""
    step = tmp_path_factory.mktemp("exported") / "step"
    result, out = pretrain("exported", "--jax", str(step))
    return step, out, result


@pytest.fixture(scope="module")
def fitting(pretrain):
    """What the command hands to Keras, trained by it."""
    handed = []

    def train(fitting):
        create_variables(fitting.model)
        handed.append({key: value_of(each) for key, each in state_of(fitting.model).items()})
        handed.append(fitting)
        return fitting.by_keras()

    with job.fitted_by(train):
        pretrain("keras")
    return handed


def order(epoch, images=IMAGES):
    """The order of `larq_ensemble.training.pipeline.training_batches`, by TensorFlow."""
    steps = -(-images // ARGUMENTS["batch-size"])
    seed = tf.constant([0, steps * epoch], tf.int64)
    shuffled = tf.random.experimental.stateless_shuffle(tf.range(images), seed)
    return shuffled.numpy()[np.newaxis].astype(np.int32)


def log_of(path):
    header, *rows = read_log(path / "log.csv")
    return [dict(zip(header[1:], map(float, row[1:]))) for row in rows]


def test_an_exported_epoch_is_one_of_keras(fitting):
    initial, trained = fitting
    state = state_of(trained.model)
    expected = {key: value_of(variable) for key, variable in state.items()}
    for key, variable in state.items():
        variable.assign(initial[key])
    function = tf.function(epoch_of(trained), autograph=False)
    data = data_of(trained)
    for epoch, row in enumerate(log_of(trained.run.path)):
        drawn = [tf.constant(value, tf.int64) for value in (0, epoch)]
        figures = function(*data.values(), order(epoch), *drawn)
        assert {name: float(value) for name, value in figures.items()} == pytest.approx(row, 1e-4)
    for key, variable in state.items():
        np.testing.assert_allclose(value_of(variable), expected[key], rtol=1e-3, atol=1e-6)
        changed = not np.array_equal(expected[key], initial[key])
        assert changed or key == "optimizer.1" or not expected[key].any(), key


def test_an_export_ends_the_command_with_a_run_to_resume(exported):
    step, out, result = exported
    assert result == {"exported": str(step)}
    assert (out / "config.json").is_file()
    assert not (out / "model.keras").exists()
    manifest = json.loads((step / "manifest.json").read_text())
    assert (manifest["epochs"], manifest["steps"], manifest["images"]) == (EPOCHS, 3, IMAGES)
    with np.load(step / manifest["data"]) as data, np.load(step / "values.npz") as values:
        assert data["train_images"].shape == (IMAGES, 8, 8, 1)
        assert data["train_images"].dtype == np.uint8
        known = {*values.files, *data.files, *run.DRAWN}
    assert {*manifest["arguments"]} <= known
    assert {*manifest["state"]} <= known
    assert (step / "run.py").read_text() == Path(run.__file__).read_text()


def test_an_export_replaces_nothing_but_itself(exported, pretrain, tmp_path):
    def contents(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    step, out, result = exported
    before = contents(step)
    with pytest.raises(click.ClickException, match=r"step' holds another training: repeat"):
        pretrain("seed1", "--seed", "1", "--jax", str(step))
    assert contents(step) == before
    assert pretrain("exported", "--resume", "--jax", str(step))[0] == result

    (tmp_path / "run.py").write_text("mine")
    with pytest.raises(click.ClickException, match=r"--jax .* holds other files: choose a new"):
        pretrain("mine", "--jax", str(tmp_path))
    assert contents(tmp_path) == {"run.py": b"mine"}
    (tmp_path / "manifest.json").write_text('{"name": "an app"}')
    with pytest.raises(click.ClickException, match="holds another training"):
        pretrain("mine", "--jax", str(tmp_path))
    assert not [*(out.parent / "mine").iterdir()]  # no run either


def finished(step, fitting):
    """Puts into a folder what `run.py` would have made, from a training by Keras."""
    _, trained = fitting
    state = training_state(trained.model)
    Checkpoints(trained.run.checkpoints_path, **state).restore()
    values = {key: value_of(each) for key, each in state_of(trained.model).items()}
    rows = log_of(trained.run.path)
    device = {"device": "a device", "jax": "1.2.3"}
    training = json.loads((step / "manifest.json").read_text())["training"]
    progress = run.Progress(training, values, rows, seconds=2.0, timed=1, device=device)
    return progress, step / run.CHECKPOINT


def test_a_result_becomes_a_run_as_if_trained_here(exported, fitting, pretrain):
    step, out, _ = exported
    progress, checkpoint = finished(step, fitting)
    by_keras = fitting[1].run.path
    dataclasses.replace(progress, rows=progress.rows[:1]).save(checkpoint)
    with pytest.raises(click.ClickException, match="has 1 of 2 epochs"):
        pretrain("exported", "--jax", str(step), "--resume")
    dataclasses.replace(progress, training="other").save(checkpoint)
    with pytest.raises(click.ClickException, match="not of the training"):
        pretrain("exported", "--jax", str(step), "--resume")
    values = {key: value for key, value in progress.state.items() if key != "model.0"}
    dataclasses.replace(progress, state=values).save(checkpoint)
    with pytest.raises(click.ClickException, match="not of the training"):
        pretrain("exported", "--jax", str(step), "--resume")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-99])
    with pytest.raises(click.ClickException, match="can't be read"):
        pretrain("exported", "--jax", str(step), "--resume")
    progress.save(checkpoint)
    with pytest.raises(click.ClickException, match="holds another training"):
        pretrain("other", "--jax", str(step), "--seed", "1")
    result, _ = pretrain("exported", "--jax", str(step), "--resume")
    expected = json.loads((by_keras / "result.json").read_text())
    # 28 images a step, 3 steps an epoch, 2 seconds for one of them.
    assert result == {**expected, "images_per_second": 42.0}
    assert read_log(out / "log.csv") == read_log(by_keras / "log.csv")
    for value, other in zip(load_run(out).model.get_weights(), fitting[1].run.model.get_weights()):
        np.testing.assert_array_equal(value, other)
    versions = load_run(out).config.versions
    assert versions == {**load_run(by_keras).config.versions, **progress.device}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ensemble": {"in_turn": True}}, "`in_turn`"),
        ({"ensemble": {"bfloat16": True}}, "`bfloat16`"),
        ({"precision": "bfloat16"}, "`bfloat16`"),
    ],
)
def test_what_cannot_run_there_is_refused(fitting, changes, message):
    trained = fitting[1]
    config = dataclasses.replace(trained.run.config, **changes)
    other = dataclasses.replace(trained.run, config=config)
    with pytest.raises(EnsembleError, match=message):
        check_exportable(dataclasses.replace(trained, run=other))


def test_a_refused_export_leaves_no_run(pretrain, tmp_path):
    """So that the corrected command isn't refused, because its directory holds a run."""
    out = tmp_path / "run"
    with pytest.raises(click.ClickException, match="--bfloat16 is for CPUs"):
        pretrain(
            *("refused", "--bfloat16", "--width", "4", "--out", str(out)),
            *("--jax", str(tmp_path / "step")),
        )
    assert not [*out.iterdir()]


@pytest.mark.parametrize(
    ("said", "named"),
    [
        (
            "Failed getting HLO text: 'Detected unsupported operations when trying to compile "
            "graph while_body[] on XLA_CPU_JIT: StatelessShuffle (No registered 'StatelessShuffle' "
            "OpKernel for XLA_CPU_JIT devices compatible with node {{node while/a}})\n\tthe way",
            "XLA can't compile StatelessShuffle.",
        ),
        (
            "Failed getting HLO text: 'Input 1 to node `while/bincount/DenseBincount` with op "
            "DenseBincount must be a compile-time constant.\n\nXLA compilation requires",
            "XLA can't compile DenseBincount.",
        ),
        ("Something else\non lines", "XLA can't compile Something else."),
    ],
)
def test_what_xla_cannot_compile_is_named(said, named):
    message = str(not_compiled(said))
    assert named in message
    assert "\n" not in message


# The loop of `run.py`, on an epoch of NumPy.

MANIFEST = {
    "training": "t",
    "epochs": 5,
    "seed": 3,
    "inputs": 2,
    "images": 4,
    "figures": {"loss": "float32", "step": "int64"},
    "state": ["weight"],
}


def epoch_of_numpy(state, order, number):
    (weight,) = state
    assert order.shape == (2, 4)
    assert [sorted(row) for row in order] == [[*range(4)]] * 2
    weight = weight * np.float32(0.5) + order[:, 0].sum().astype(np.float32)
    return [weight[0], np.int64(number)], [weight]


def trained(path, **options):
    np.savez(path.parent / "values.npz", weight=np.ones(1, np.float32))
    progress = run.Progress.begin(path.parent, MANIFEST, path)
    said = []
    done = run.train(MANIFEST, epoch_of_numpy, progress, path, say=said.append, **options)
    return done, run.Progress.load(path), said


def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path):
    done, whole, said = trained(tmp_path / "whole.npz")
    assert done
    assert len(said) == 5
    assert said[0].startswith("epoch 1/5: loss ")
    # Each epoch takes 3 s by this clock: two end within 7 s, and the third would not.
    seconds = iter(np.arange(0, 999, 3))
    done, part, _ = trained(tmp_path / "part.npz", seconds=7, clock=lambda: next(seconds))
    assert not done
    assert len(part.rows) == 2
    done, rest, said = trained(tmp_path / "part.npz")
    assert done
    assert len(said) == 3
    assert rest.rows == whole.rows
    assert len({row["loss"] for row in whole.rows}) == 5
    np.testing.assert_array_equal(rest.state["weight"], whole.state["weight"])
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == ["part.npz", "values.npz", "whole.npz"]
    with pytest.raises(SystemExit, match="not of the training"):
        run.Progress.begin(tmp_path, {**MANIFEST, "training": "other"}, tmp_path / "part.npz")


def test_a_training_that_diverges_keeps_the_checkpoint_of_before(tmp_path):
    def diverging(state, order, number):
        figures, state = epoch_of_numpy(state, order, number)
        return ([np.float32("nan"), figures[1]] if number == 3 else figures), state

    clock = iter(np.arange(0, 9999, 100.0))
    progress = run.Progress("t", {"weight": np.ones(1, np.float32)})
    with pytest.raises(FloatingPointError, match="epoch 4"):
        run.train(
            MANIFEST, diverging, progress, tmp_path / "c.npz",
            clock=lambda: next(clock), say=lambda text: None,
        )  # fmt: skip
    assert len(run.Progress.load(tmp_path / "c.npz").rows) == 3


def test_orders_depend_on_seed_epoch_and_stream_only():
    orders = [run.order_of(*arguments, 2, 50) for arguments in ((0, 0), (0, 1), (1, 0))]
    rows = [tuple(row) for each in orders for row in each]
    assert len({*rows}) == 6
    assert all(sorted(row) == [*range(50)] for row in rows)
    np.testing.assert_array_equal(orders[0], run.order_of(0, 0, 2, 50))


# JAX itself.

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy, run
assert "tensorflow" not in sys.modules
orders = numpy.load(sys.argv[1] + "/orders.npy")
run.order_of = lambda seed, epoch, inputs, images: orders[epoch]
sys.exit(run.main([sys.argv[1], "--out", sys.argv[1]]))
"""
#: Flags of XLA for a quarter less time.
QUICKLY_COMPILED = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def python_with_jax():
    if named := os.environ.get("JAX_PYTHON"):
        return named
    return sys.executable if importlib.util.find_spec("jax") else None


def train_under_jax(step):
    """What `run.py` makes of an exported training, on the images in Keras's order."""
    manifest = json.loads((step / "manifest.json").read_text())
    orders = [order(epoch, manifest["images"]) for epoch in range(manifest["epochs"])]
    np.save(step / "orders.npy", orders)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python_with_jax(), "-c", PROGRAM, str(step)],
        env={**environment, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICKLY_COMPILED},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return run.Progress.load(step / f"{step.name}.npz")


needs_jax = pytest.mark.skipif(
    python_with_jax() is None, reason="no JAX here: name a Python in JAX_PYTHON"
)


@needs_jax
def test_jax_trains_as_keras(exported, fitting):
    step, expected = exported[0], log_of(fitting[1].run.path)
    progress = train_under_jax(step)
    assert [pytest.approx(row, 1e-4) for row in expected] == progress.rows
    for key, value in finished(step, fitting)[0].state.items():
        np.testing.assert_allclose(progress.state[key], value, rtol=1e-3, atol=1e-6)


@needs_jax
def test_jax_trains_a_taught_ensemble_of_signs_as_keras(fitting, tmp_path, monkeypatch):
    """In one step: in more of them signs would amplify what is rounded otherwise.

    So would PReLU, where a sum of signs is 0: here each has an odd number of terms. And so would
    Adam with a smaller epsilon, whose first step is hardly smaller for a tiny gradient.
    """
    odd = Architecture(residual_block, (3, 5), (0, 1))
    monkeypatch.setitem(MODELS._entries, "odd", odd)
    data = DataOptions(validation=0.0, limit_train=28, limit_test=0)
    recipe = Recipe(1, 28, lr=1e-2, epsilon=1e-3, dropout=0.0, source="test")
    untrained = {"recipe": recipe.override(epochs=0), "data": data, "verbose": 0}
    backbone, _ = pretrain_run("odd", "digits", tmp_path / "backbone", pad_values=1.0, **untrained)
    teacher, states = load_run(fitting[1].run.path), []

    def train(fitting):
        create_variables(fitting.model)
        state = state_of(fitting.model)
        states.append({key: value_of(each) for key, each in state.items()})
        export(fitting, tmp_path / "step")
        fitting.model.run_eagerly = True  # a graph of one step costs more than it saves
        speed = fitting.by_keras()
        states.append({key: value_of(each) for key, each in state.items()})
        return speed

    with job.fitted_by(train):
        trained, _ = train_ensemble(
            backbone, tmp_path / "run", members=2, recipe=recipe, data=data, verbose=0,
            distillation=Distillation(teacher),
        )  # fmt: skip
    progress = train_under_jax(tmp_path / "step")
    (row,), (header, logged) = progress.rows, read_log(trained.log_path)
    assert {name: float(logged[header.index(name)]) for name in row} == pytest.approx(row, 1e-4)
    initial, expected = states
    changed = [not np.array_equal(initial[key], value) for key, value in expected.items()]
    assert sum(changed) > len(expected) / 2
    for key, value in expected.items():
        np.testing.assert_allclose(progress.state[key], value, rtol=1e-3, atol=1e-6)
