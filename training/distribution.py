"""Training on several devices or hosts by `tf.distribute`, step for step as on one device.

Every process makes the same global batches (they follow from seed, epoch and step) and each
replica takes its slice; gradients are summed over the replicas and batch norm uses the statistics
of the global batch. So losses are those of one device but for rounding, and a run can be taken up
again with another number of devices.

# References
    - [tf.distribute](https://www.tensorflow.org/guide/distributed_training), Multi-worker training
      with Keras (the form of TF_CONFIG).
"""

from __future__ import annotations

import copy
import functools
import json
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from larq_ensemble.ensembles import copy_weights
from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.keras import keras, tf
from larq_ensemble.runs import Run, RunConfig, create_run, open_run
from larq_ensemble.training.pipeline import Batches

STRATEGIES = ("mirrored", "multiworker")

_EXAMPLE = (
    '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


class Distribution:
    """How a training is spread over devices and hosts.

    With `multiworker` every host runs the same command, and this has to be made before TensorFlow
    does anything else. The first one, the chief, writes the run directory; the others read it, so
    it has to be on a file system that all hosts see.

    # Arguments
        name: `None` (one device), `"mirrored"` (all GPUs of this host, or its logical CPU devices)
            or `"multiworker"` (all hosts of the environment variable TF_CONFIG).

    # Attributes
        chief: whether this process writes the run directory.
        replicas: devices of all hosts.

    # Raises
        EnsembleError: for an unknown name, a missing or unusable TF_CONFIG, or if TensorFlow is
            at work already.
    """

    def __init__(self, name: str | None = None) -> None:
        self.chief, self._hosts = True, 1
        one_device = self._strategy = tf.distribute.get_strategy()
        if name == "mirrored":
            self._strategy = _mirrored()
        elif name == "multiworker":
            self.chief, self._hosts = _task(os.environ.get("TF_CONFIG"))
            self._strategy = _multiworker()
        elif name is not None:
            raise UnknownNameError("distribute", name, STRATEGIES)
        self.replicas: int = self._strategy.num_replicas_in_sync
        if self.replicas == 1:
            self._strategy = one_device

    def scope(self) -> Any:
        """The context to compile a model in."""
        return self._strategy.scope()

    def replicate(self, model: keras.Model) -> keras.Model:
        """The model to train in place of `model`: itself if there is one device.

        Otherwise a copy with a replica on each device, its batch norm taken over all of them
        (`BatchNormalization(synchronized=True)`). `copy_weights` brings its weights back.
        """
        if self.replicas == 1:
            return model
        config = copy.deepcopy(model.get_config())
        for layer in config["layers"]:
            if layer["class_name"] == "BatchNormalization":
                layer["config"]["synchronized"] = True
        with self.scope():
            replicated = type(model).from_config(config)
        copy_weights(model, replicated)
        return replicated

    def split(self, batches: Batches) -> Any:
        """What `Model.fit` takes: of each global batch of n, replica r of R gets n / R images.

        # Raises
            EnsembleError: if n / R is no whole number.
        """
        if self.replicas == 1:
            return batches.stream
        if batches.batch_size % self.replicas:
            raise EnsembleError(
                f"--batch-size {batches.batch_size} can't be divided among {self.replicas} "
                "devices: it counts the images on all of them, so choose a multiple of their "
                "number."
            )
        slices = batches.stream.rebatch(batches.batch_size // self.replicas)

        def of_host(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return slices.shard(context.num_input_pipelines, context.input_pipeline_id).prefetch(4)

        return self._strategy.distribute_datasets_from_function(of_host)

    def shard(self, batches: tf.data.Dataset | None) -> tf.data.Dataset | None:
        """Evaluation batches of which each host takes its share."""
        if batches is None or self.replicas == 1:
            return batches
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        return batches.with_options(options)

    def open_run(
        self, out: str | os.PathLike[str], config: RunConfig, *, resume: bool = False
    ) -> Run:
        """As `larq_ensemble.runs.open_run`, which the chief alone calls; the others wait for it.

        # Raises
            EnsembleError: on every host, if the chief had one or hosts have other arguments.
        """
        arguments = {**config.to_json(), "versions": None}
        self.agree(zlib.crc32(json.dumps(arguments).encode()) >> 4, "what they were told to train")
        return self._on_chief(open_run, out, config, resume)

    def create_run(
        self, out: str | os.PathLike[str], config: RunConfig, *, resume: bool = False
    ) -> Run:
        """As `larq_ensemble.runs.create_run`, which the chief alone calls; the others wait for it.

        # Raises
            EnsembleError: on every host, if the chief had one.
        """
        return self._on_chief(create_run, out, config, resume)

    def _on_chief(
        self,
        function: Callable[..., Run],
        out: str | os.PathLike[str],
        config: RunConfig,
        resume: bool,
    ) -> Run:
        error: EnsembleError | None = None
        if self.chief:
            try:
                function(out, config, resume=resume)
            except EnsembleError as failed:
                error = failed
        if self._sum(int(error is not None)):
            raise error or EnsembleError(
                f"--out {os.fspath(out)!r} can't be used: the first host says why."
            )
        return Run(Path(out), config)

    def agree(self, value: int, what: str) -> int:
        """`value`, a number below 2**28, which has to be the same on every host.

        # Raises
            EnsembleError: if it isn't.
        """
        # Equality in the inequality of Cauchy and Schwarz: then, and only then, all are the same.
        if self.replicas * self._sum(value * value) != self._sum(value) ** 2:
            raise EnsembleError(
                f"The hosts differ in {what}: give all the same arguments, and an --out on a file "
                "system that all of them see."
            )
        return value

    def _sum(self, value: int) -> int:
        """The sum over all devices of what their hosts give; each host waits for the others."""
        if self._hosts == 1:
            return value * self.replicas
        per_replica = self._strategy.run(tf.function(lambda: tf.constant(value, tf.int64)))
        total = self._strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)
        return int(total)


def _task(tf_config: str | None) -> tuple[bool, int]:
    """Whether TF_CONFIG makes this process the chief, and how many hosts there are."""
    if not tf_config:
        raise EnsembleError(
            "--distribute multiworker needs the environment variable TF_CONFIG on every host, for "
            f"example {_EXAMPLE}."
        )
    try:
        values = json.loads(tf_config)
        cluster, task = values["cluster"], values["task"]
        kind, index = task["type"], int(task["index"])
        addresses = [address for name in ("chief", "worker") for address in cluster.get(name, [])]
        known = kind in ("chief", "worker") and 0 <= index < len(cluster.get(kind, []))
        usable = known and all(isinstance(address, str) for address in addresses)
    except (ValueError, TypeError, KeyError, AttributeError):
        usable = False
    if not usable:
        raise EnsembleError(
            f"TF_CONFIG {tf_config!r} can't be used: it has to list the workers' addresses and say "
            f"which of them this process is, for example {_EXAMPLE}."
        )
    if len(addresses) > 1:
        print(f"Waiting for all {len(addresses)} hosts.", file=sys.stderr, flush=True)
    return kind == ("chief" if "chief" in cluster else "worker") and index == 0, len(addresses)


# One strategy a process: two would number their collective operations alike and mix them up, and
# the cluster can be joined only once.
@functools.cache
def _mirrored() -> tf.distribute.Strategy:
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


@functools.cache
def _multiworker() -> tf.distribute.Strategy:
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        raise EnsembleError(
            f"The hosts of TF_CONFIG can't train together ({str(error).strip().splitlines()[0]}): "
            "start one process for each of them, before it uses TensorFlow for anything else."
        ) from error
