import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from larq_ensemble.data.datasets import DataOptions
from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.keras import tf
from larq_ensemble.runs import load_run
from larq_ensemble.training import distribution
from larq_ensemble.training.distillation import Distillation
from larq_ensemble.training.distribution import Distribution
from larq_ensemble.training.ensemble import train_ensemble
from larq_ensemble.training.pipeline import Batches
from larq_ensemble.training.pretrain import pretrain
from larq_ensemble.training.recipes import Recipe

ROOT = Path(__file__).parents[2]

# Those of `conftest.py`, which the processes take, too.
RECIPE = Recipe(epochs=3, batch_size=24, lr=1e-2, dropout=0.0, source="test")
DATA = DataOptions(limit_train=80, limit_test=64)

PROCESS = """
import sys
from larq_ensemble.keras import tf
if len(sys.argv) > 2:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], 2 * [tf.config.LogicalDeviceConfiguration()]
    )
from larq_ensemble.network.architectures import MODELS, Architecture
from larq_ensemble.network.architectures.resnet import residual_block
from larq_ensemble.runs import load_run
from larq_ensemble.training import fit
from larq_ensemble.data.datasets import DataOptions
from larq_ensemble.training import distribution
from larq_ensemble.training.distillation import Distillation
from larq_ensemble.training.ensemble import train_ensemble
from larq_ensemble.training.pretrain import pretrain
from larq_ensemble.training.recipes import Recipe

MODELS.register("stem", Architecture(residual_block, (4,), (0,), binary=False))
recipe = Recipe(epochs=3, batch_size=24, lr=1e-2, dropout=0.0, source="test")
arguments = {"data": DataOptions(limit_train=80, limit_test=64), "verbose": 0}
"""

TWO_HOSTS = """
pretrain("stem", "digits", sys.argv[1], recipe=recipe, distribute="multiworker", **arguments)
"""

ONE_HOST_ENDS = """
import json, os, signal
from larq_ensemble.errors import EnsembleError
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
def end(splits):
    if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 1:
        os.kill(os.getpid(), signal.SIGTERM)
try:
    pretrain(
        "stem", "digits", sys.argv[1], recipe=recipe, distribute="multiworker", on_data=end,
        **arguments,
    )
except EnsembleError as error:
    print(error)
"""

TWO_DEVICES = """
teacher, arguments["distribute"] = load_run(sys.argv[1]), "mirrored"
train_ensemble(
    teacher, "bagging", members=2, scheme="bagging", recipe=recipe.override(epochs=1),
    augment="mix", class_weights={3: 2.0}, **arguments
)
end = fit.EpochTimer.on_train_batch_end
def interrupted(self, batch, logs=None):
    end(self, batch, logs)
    if int(self.model.optimizer.iterations.numpy()) == 8:
        raise KeyboardInterrupt
fit.EpochTimer.on_train_batch_end = interrupted
try:
    pretrain(
        "stem", "digits", sys.argv[2], recipe=recipe, resume=True,
        distillation=Distillation(teacher), class_weights={3: 2.0}, **arguments,
    )
except KeyboardInterrupt:
    print("interrupted")
"""


def assert_same(actual, expected):
    """The same steps, losses and weights, but for rounding and for this: on one device Keras
    keeps a variance over N values as that of the population they are drawn from, N / (N - 1)
    times theirs. N is 24 * 8 * 8, and only evaluation uses it."""
    rows = []
    for run in (actual, expected):
        with open(run.log_path, newline="", encoding="utf-8") as file:
            rows.append([{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)])
    assert len(rows[0]) == len(rows[1]) > 0
    for row, expected_row in zip(*rows):
        assert row.keys() == expected_row.keys()
        for name, value in row.items():
            tolerance = 1e-3 if name.startswith("val_") else 1e-5
            assert value == pytest.approx(expected_row[name], rel=tolerance), name
    pairs = zip(actual.model.weights, expected.model.weights, strict=True)
    for weight, expected_weight in pairs:
        tolerance = 2e-3 if "moving" in weight.name else 1e-4
        np.testing.assert_allclose(weight, expected_weight, rtol=tolerance, atol=1e-5)


def start(code, *arguments, folder, **variables):
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS + code, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_hosts(code, *, folder, **variables):
    """Two hosts that train `folder`/run."""
    cluster = {"worker": free_addresses(2)}
    return [
        start(
            code,
            folder / "run",
            folder=folder,
            TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
            **variables,
        )
        for index in range(2)
    ]


def finish(*processes):
    """Their outputs, once all have ended well; none is left running."""
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, output in zip(processes, outputs):
        assert process.returncode == 0, output[-3000:]
    return outputs


def free_addresses(count):
    with_ports = [socket.socket() for _ in range(count)]
    try:
        for listener in with_ports:
            listener.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{listener.getsockname()[1]}" for listener in with_ports]
    finally:
        for listener in with_ports:
            listener.close()


def test_two_hosts_train_as_one(stem_backbone, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    outputs = finish(*start_hosts(TWO_HOSTS, folder=tmp_path, TMPDIR=str(temporary)))
    assert all("Waiting for all 2 hosts." in output for output in outputs)
    run = load_run(tmp_path / "run")
    assert_same(run, stem_backbone)
    assert {path.name for path in run.path.iterdir()} == {
        path.name for path in stem_backbone.path.iterdir()
    }
    assert json.loads(run.result_path.read_text()).keys() == {
        *json.loads(stem_backbone.result_path.read_text())
    }
    # The second host logged nothing and kept nothing.
    assert len(list(run.path.glob("tensorboard/train/events*"))) == 1
    assert not [path for path in temporary.iterdir() if path.name.startswith("larq-ensemble")]


def test_a_host_that_ends_is_told_to_the_others(tmp_path):
    """By SIGTERM, which TensorFlow takes when it joins a cluster, to go on."""
    first, _ = finish(*start_hosts(ONE_HOST_ENDS, folder=tmp_path))
    assert "Another host has ended" in first
    assert "start all of them again with `resume=True`" in first


def test_two_devices_train_as_one_and_take_turns_with_it(
    stem_backbone, stem, tmp_path, copy_at_step, epochs_begun
):
    def taught(name):
        return pretrain(
            stem,
            "digits",
            tmp_path / name,
            recipe=RECIPE,
            data=DATA,
            distillation=Distillation(stem_backbone),
            class_weights={3: 2.0},
            resume=True,
            verbose=0,
        )[0]

    with copy_at_step(4, tmp_path / "expected", tmp_path / "run"):
        expected = taught("expected")  # The first epoch on one device,
    (output,) = finish(start(TWO_DEVICES, stem_backbone.path, tmp_path / "run", folder=tmp_path))
    assert output.endswith("interrupted\n")  # the second on two,
    assert_same(taught("run"), expected)  # and the third on one.
    assert epochs_begun == [0, 1, 2, 2]

    bagging, _ = train_ensemble(
        stem_backbone,
        tmp_path / "expected_bagging",
        members=2,
        scheme="bagging",
        recipe=RECIPE.override(epochs=1),
        augment="mix",
        class_weights={3: 2.0},
        data=DATA,
        verbose=0,
    )
    assert_same(load_run(tmp_path / "bagging"), bagging)


def test_batches_that_can_not_be_divided():
    devices = Distribution()
    devices.replicas = 2
    stream = tf.data.Dataset.range(10).batch(5)
    with pytest.raises(EnsembleError, match="`batch_size` 5 can't be divided among 2 devices"):
        devices.split(Batches(stream, 2, 5, 5))


def test_one_device_changes_nothing(stem_backbone, stem, tmp_path):
    """`mirrored` finds one CPU here."""
    devices = Distribution("mirrored")
    assert devices.replicate(stem_backbone.model) is stem_backbone.model
    stream = tf.data.Dataset.range(10).batch(5)
    assert devices.split(Batches(stream, 2, 5, 5)) is stream
    assert devices.shard(stream) is stream
    with pytest.raises(UnknownNameError, match=r"'tpu'\. Known: mirrored, multiworker"):
        Distribution("tpu")


@pytest.mark.parametrize(
    "tf_config",
    [
        None,
        "",
        "worker",
        "[]",
        "{}",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
        '{"cluster": {"worker": [1]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "first"}}',
        '{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": 0}',
    ],
)
def test_tf_config_is_missing_or_unusable(tf_config, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if tf_config is not None:
        monkeypatch.setenv("TF_CONFIG", tf_config)
    message = (
        "TF_CONFIG '.+' can't be used"
        if tf_config
        else "`distribute='multiworker'` needs the environment variable"
    )
    with pytest.raises(EnsembleError, match=rf'{message}.*for example \{{"cluster": '):
        Distribution("multiworker")


@pytest.mark.parametrize(
    ("cluster", "task", "expected"),
    [
        ({"worker": ["a:1"]}, ("worker", 0), (True, 1)),
        ({"worker": ["a:1", "b:1"]}, ("worker", 0), (True, 2)),
        ({"worker": ["a:1", "b:1"]}, ("worker", 1), (False, 2)),
        ({"worker": ["a:1", "b:1"]}, ("worker", "1"), (False, 2)),
        # With a chief, the first worker is none.
        ({"chief": ["c:1"], "worker": ["a:1", "b:1"]}, ("chief", 0), (True, 3)),
        ({"chief": ["c:1"], "worker": ["a:1", "b:1"]}, ("worker", 0), (False, 3)),
        # Others are in the cluster, but don't train.
        ({"worker": ["a:1"], "evaluator": ["e:1"]}, ("worker", 0), (True, 1)),
    ],
)
def test_the_chief_and_the_number_of_hosts(cluster, task, expected, monkeypatch):
    of_process = {"type": task[0], "index": task[1]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": of_process}))
    assert distribution._task() == expected


def test_hosts_have_to_be_a_program_s_first_use_of_tensorflow(monkeypatch):
    task = {"cluster": {"worker": free_addresses(2)}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(task))
    assert tf.constant(1) == 1
    with pytest.raises(EnsembleError, match=r"can't train together .* before it uses TensorFlow"):
        Distribution("multiworker")
