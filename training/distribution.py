"""Training on several devices or hosts by `tf.distribute`, step for step as on one device.

Every process makes the same global batches, which depend on seed, epoch and step only, and each
replica takes its slice. Gradients are summed over the replicas, and batch norm uses the statistics
of the global batch. So losses equal those of one device except for rounding, and a run can be
resumed on another number of devices.

# References
    - [tf.distribute](https://www.tensorflow.org/guide/distributed_training), and "Multi-worker
      training with Keras" for the format of TF_CONFIG.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from larq_ensemble.checkpoints import HOST_LOST
from larq_ensemble.ensembles import copy_weights
from larq_ensemble.errors import EnsembleError, UnknownNameError, first_line
from larq_ensemble.files import user_path
from larq_ensemble.keras import keras, tf
from larq_ensemble.models.copying import copied_network
from larq_ensemble.runs import Run, RunConfig, create_run, open_run
from larq_ensemble.training.pipeline import Batches

STRATEGIES = ("mirrored", "multiworker")
_JOBS = ("chief", "worker")  # of TF_CONFIG: those that train

_EXAMPLE = (
    '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


class Distribution:
    """The devices and hosts of a training.

    With `multiworker` every host runs the same command, and this object must be created before
    anything else uses TensorFlow. One host, the chief, writes the run directory. The others read
    it, so it must be on a shared file system.

    # Arguments
        name: `None` (one device), `"mirrored"` (all GPUs of this host, or else its logical CPU
            devices) or `"multiworker"` (all hosts of the environment variable TF_CONFIG).

    # Attributes
        chief: whether this process writes the run directory.
        replicas: devices of all hosts.

    # Raises
        EnsembleError: for an unknown name, a missing or unusable TF_CONFIG, or if TensorFlow has
            been used already.
    """

    def __init__(self, name: str | None = None) -> None:
        self.chief, self._hosts = True, 1
        one_device = self._strategy = tf.distribute.get_strategy()
        if name == "mirrored":
            self._strategy = _mirrored()
        elif name == "multiworker":
            self.chief, self._hosts = _task()
            self._strategy = _multiworker()
        elif name is not None:
            raise UnknownNameError("distribute", name, STRATEGIES)
        self.replicas: int = self._strategy.num_replicas_in_sync
        if self.replicas == 1:
            self._strategy = one_device

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """The context of what all hosts do.

        # Raises
            EnsembleError: if another host has ended.
        """
        try:
            yield
        except HOST_LOST as error:
            if self._hosts == 1:
                raise
            raise EnsembleError(
                "Another host has ended, and the others can't train without it: see what it says, "
                "then start all of them again with `resume=True`."
            ) from error

    def scope(self) -> Any:
        """The context in which to compile a model."""
        return self._strategy.scope()

    def replicate(self, model: keras.Model) -> keras.Model:
        """The model to train in place of `model`; on one device `model` itself.

        On several it is a copy with a replica on each device, and batch norm over all of them
        (`BatchNormalization(synchronized=True)`). `copy_weights` brings its weights back.
        """
        if self.replicas == 1:
            return model

        def change(layer: keras.layers.Layer, config: dict[str, Any]) -> dict[str, Any]:
            norm = type(layer) is keras.layers.BatchNormalization
            return {**config, "synchronized": True} if norm else config

        with self.scope():
            replicated = copied_network(model, change)
        copy_weights(model, replicated)
        return replicated

    def split(self, batches: Batches) -> Any:
        """Batches for `Model.fit`: of a global batch of n images, each of R replicas gets n / R.

        # Raises
            EnsembleError: if R does not divide n.
        """
        if self.replicas == 1:
            return batches.stream
        size, last = batches.batch_size, batches.last_batch_size
        for images, what in (
            (size, f"`batch_size` {size}"),
            (last, f"The last batch of an epoch, {last} images at `batch_size` {size},"),
        ):
            if images % self.replicas:
                raise EnsembleError(
                    f"{what} can't be divided among {self.replicas} devices: it counts the images "
                    "on all of them, so choose a multiple of their number."
                )

        def cut(*batch: Any) -> Any:
            return tf.nest.map_structure(
                lambda values: tf.reshape(values, [self.replicas, -1, *values.shape[1:]]), batch
            )

        slices = batches.stream.map(cut).unbatch()

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
        """`larq_ensemble.runs.open_run` on the chief; the other hosts wait for it.

        # Raises
            EnsembleError: on every host, if the chief raised one or the hosts' arguments differ.
        """
        arguments = {**config.to_json(), "versions": None}
        self.agree(zlib.crc32(json.dumps(arguments).encode()) >> 4, "their arguments")
        return self._on_chief(open_run, out, config, resume)

    def create_run(
        self,
        out: str | os.PathLike[str],
        config: RunConfig,
        *,
        resume: bool = False,
        until: contextlib.ExitStack | None = None,
    ) -> Run:
        """`larq_ensemble.runs.create_run` on the chief; the other hosts wait for it.

        # Raises
            EnsembleError: on every host, if the chief raised one.
        """
        return self._on_chief(functools.partial(create_run, until=until), out, config, resume)

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
                f"`out` {os.fspath(out)!r} can't be used: the first host says why."
            )
        return Run(user_path(out), config)

    def agree(self, value: int, what: str) -> int:
        """Checks that a number below 2**28 is the same on every host, and returns it.

        # Arguments
            value: the number.
            what: the name of the value in the error.

        # Raises
            EnsembleError: if hosts differ.
        """
        # Cauchy-Schwarz: n times the sum of squares is the square of the sum only if all are equal.
        if self.replicas * self._sum(value * value) != self._sum(value) ** 2:
            raise EnsembleError(
                f"The hosts differ in {what}: give all the same arguments, and an `out` on a file "
                "system that they share."
            )
        return value

    def _sum(self, value: int) -> int:
        """The sum over all devices of their hosts' values. Each host waits for the others."""
        if self._hosts == 1:
            return value * self.replicas
        per_replica = self._strategy.run(tf.function(lambda: tf.constant(value, tf.int64)))
        total = self._strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)
        return int(total)


def _task() -> tuple[bool, int]:
    """Whether TF_CONFIG makes this process the chief, and how many hosts train.

    # Raises
        EnsembleError: if it is missing or can't be used.
    """
    tf_config = os.environ.get("TF_CONFIG")
    if not tf_config:
        raise EnsembleError(
            "`distribute='multiworker'` needs the environment variable TF_CONFIG on every host, "
            f"for example {_EXAMPLE}."
        )
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    try:
        cluster = resolver.cluster_spec()
        job, index = resolver.task_type, resolver.task_id
        cluster.task_address(job, index)
        usable = job in _JOBS
    except (TypeError, ValueError):  # the resolver and the cluster raise either
        usable = False
    if not usable:
        raise EnsembleError(
            f"TF_CONFIG {tf_config!r} can't be used: it has to list the workers' addresses and say "
            f"which of them this process is, for example {_EXAMPLE}."
        )
    hosts = sum(cluster.num_tasks(name) for name in cluster.jobs if name in _JOBS)
    if hosts > 1:
        print(f"Waiting for all {hosts} hosts.", file=sys.stderr, flush=True)
    return job == ("chief" if "chief" in cluster.jobs else "worker") and index == 0, hosts


# One strategy for the life of the process: two would number their collective operations alike, and
# a process can join the cluster only once.
@functools.cache
def _mirrored() -> tf.distribute.Strategy:
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


@functools.cache
def _multiworker() -> tf.distribute.Strategy:
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        raise EnsembleError(
            f"The hosts of TF_CONFIG can't train together ({first_line(error)}): "
            "start one process for each of them, before it uses TensorFlow for anything else."
        ) from error
    _end_on_sigterm_as_before()
    return strategy


def _end_on_sigterm_as_before() -> None:
    """Gives Python back SIGTERM, which TensorFlow takes when it joins a cluster.

    TensorFlow only notes that the host is about to be taken away, for a checkpoint handler that is
    not used here, and the process would go on.
    """
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGTERM)
        if handler is not None:  # one that Python did not set
            signal.signal(signal.SIGTERM, handler)
