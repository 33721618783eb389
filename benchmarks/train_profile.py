"""Where the time of a fusion training step goes, and how near each part is to its bound.

Trains XNOR-ResNet-20 (100 classes) as `larq-ensemble train` does, on one batch of noise, under
TensorFlow's profiler. Convolutions are compared with a large float32 matrix product on this
machine, in floating-point operations per second. Parts that move feature maps are compared with a
plain multiplication, in bytes per second, of the bytes that have to move at least.

    python benchmarks/train_profile.py
    python benchmarks/train_profile.py --members 4 --bfloat16
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import glob
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import Any

import click

from larq_ensemble.cli import run_command
from larq_ensemble.console.options import POSITIVE
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.errors import EnsembleError

#: Parts of a step, by the ends of the names of TensorFlow's operators.
PARTS = {
    "convolutions, forward": ("Conv2D",),
    "convolutions, backward": ("Conv2DBackpropInput",),
    "batch norm": ("FusedBatchNormV3", "FusedBatchNormGradV3"),
    "sign and PReLU": ("CpuExecutable::ExecuteAsyncOnStream",),
    "additions": ("AddV2", "AddN"),
    "Adam": ("ResourceApplyAdam",),
}


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@click.option("--members", type=click.IntRange(1), default=1, show_default=True, help="M.")
@click.option("--batch", type=click.IntRange(1), default=256, show_default=True, help="Images.")
@click.option("--steps", type=click.IntRange(1), default=5, show_default=True, help="Profiled.")
@click.option("--width", type=POSITIVE, default=1.0, show_default=True, help="Times the channels.")
@click.option("--bfloat16", is_flag=True, help="Frozen binary convolutions in bfloat16.")
@json_option
def main(
    members: int, batch: int, steps: int, width: float, bfloat16: bool, json_target: str | None
) -> None:
    with reporting(json_target) as report:
        from larq_ensemble.models import build_model

        backbone = build_model("resnet20", input_shape=(32, 32, 3), classes=100, width=width)
        bounds = {"GFLOP/s": matmul_rate(), "GB/s": memory_rate()}
        seconds, parts = profile(backbone, members, batch, steps, bfloat16)
        work = least_work(backbone, batch, bfloat16)
        rows: list[dict[str, Any]] = []
        for name, spent in parts.items():
            amount, unit = work.get(name, (None, None))
            rate = None if amount is None else members * amount / spent / 1e9
            rows.append(
                {
                    "part": name,
                    "milliseconds": 1e3 * spent / members,
                    "share": spent / seconds,
                    "rate": rate,
                    "unit": unit,
                    "of_bound": None if rate is None or unit is None else rate / bounds[unit],
                }
            )
        report.table(
            f"A step of fusion, M = {members}, batch {batch}, width {width}"
            + ", bfloat16" * bfloat16,
            ["part", "ms per member", "% of the step", "rate", "% of the bound"],
            [
                [
                    row["part"], row["milliseconds"], f"{100 * row['share']:.0f}",
                    None if row["rate"] is None else f"{row['rate']:,.0f} {row['unit']}",
                    None if row["rate"] is None else f"{100 * row['of_bound']:.0f}",
                ]
                for row in rows
            ],
        )  # fmt: skip
        report.line(
            f"{1e3 * seconds / members:,.0f} ms per member and step, "
            f"{members * batch / seconds:,.0f} member-images/s. Bounds on this machine: float32 "
            f"matrix product {bounds['GFLOP/s']:,.0f} GFLOP/s, memory {bounds['GB/s']:,.0f} GB/s."
        )
        report.result = {"seconds": seconds, "bounds": bounds, "parts": rows}


def profile(
    backbone: Any, members: int, batch: int, steps: int, bfloat16: bool
) -> tuple[float, dict[str, float]]:
    """Seconds of a step, and of each of its parts; what is left is `"the rest"`."""
    from larq_ensemble.ensembles import build_ensemble
    from larq_ensemble.keras import tf
    from larq_ensemble.training.fit import adam
    from larq_ensemble.training.recipes import RECIPES

    network = build_ensemble(backbone, members)
    recipe = RECIPES["short"](100).retrain
    network.compile(adam(recipe, 100), bfloat16=bfloat16)
    train = network.make_train_function()
    images = tf.random.stateless_normal([batch, 32, 32, 3], [0, 0])
    labels = tf.random.stateless_uniform([batch], [0, 1], 0, 100, tf.int32)
    batches = iter(tf.data.Dataset.from_tensors((images, labels)).cache().repeat())

    def step() -> None:
        float(train(batches)["loss"])

    for _ in range(2):
        step()
    seconds = [timed(step) for _ in range(steps)]
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for _ in range(steps):
                step()
        spent = _operators(folder)
    parts: dict[str, float] = {}
    for part, names in PARTS.items():
        of_part = [name for name in spent if name.removeprefix("_MklNative") in names]
        parts[part] = sum(spent[name] for name in of_part) / steps
    parts["the rest"] = max(0.0, median(seconds) - sum(parts.values()))
    return median(seconds), parts


def _operators(folder: str) -> Counter[str]:
    """Seconds by operator, of the profile in this folder.

    # Raises
        EnsembleError: if TensorFlow has written none that can be read.
    """
    try:
        from tensorflow.tsl.profiler.protobuf import xplane_pb2

        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
    except (ImportError, ValueError) as error:
        raise EnsembleError(
            f"TensorFlow's profile can't be read ({error}): use TensorFlow 2.21."
        ) from error
    space = xplane_pb2.XSpace()
    with open(path, "rb") as file:
        space.ParseFromString(file.read())
    spent: Counter[str] = Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                if "::" not in name:  # Else no operator but a function of TensorFlow itself.
                    name = name.rpartition(":")[2]
                spent[name] += event.duration_ps / 1e12
    return spent


def least_work(backbone: Any, batch: int, bfloat16: bool) -> dict[str, tuple[float, str]]:
    """What a member's step has to do in each part, in operations or in bytes.

    The convolution of the stem is left out: the members have it in common. Of feature maps, batch
    norm reads its input twice and writes its output; backward it reads input and gradient twice and
    writes one. Sign and PReLU read and write one map; backward they read two and write one.
    """
    from larq_ensemble.keras import keras, lq
    from larq_ensemble.models import layer_graph
    from larq_ensemble.network.compute import count_macs

    macs = count_macs(layer_graph(backbone))
    stem = backbone.get_layer("conv1")
    stem_macs = stem.kernel.shape.num_elements() * stem.output_shape[1] * stem.output_shape[2]
    operations = 2.0 * batch * (macs.total - stem_macs)
    half = 2 if bfloat16 else 4  # Bytes of a value that a binary convolution reads or writes.
    normalized = moved = 0.0
    for layer in backbone.layers:
        values = batch
        for size in (
            layer.output_shape[-1][1:]
            if isinstance(layer, keras.layers.InputLayer)
            else (layer.output_shape[1:])
        ):
            values *= size
        if isinstance(layer, keras.layers.BatchNormalization):
            normalized += 4 * (3 + 5) * values
        elif isinstance(layer, keras.layers.PReLU):
            of_conv = isinstance(layer.inbound_nodes[0].inbound_layers, lq.layers.QuantConv2D)
            moved += ((half if of_conv else 4) * 3 + 4 * 2) * values
        elif isinstance(layer, lq.layers.QuantConv2D):
            inputs = values / layer.filters * layer.input_shape[-1] * layer.strides[0] ** 2
            moved += (4 + half + 4 + half + 4) * inputs
    return {
        "convolutions, forward": (operations, "GFLOP/s"),
        "convolutions, backward": (operations, "GFLOP/s"),
        "batch norm": (normalized, "GB/s"),
        "sign and PReLU": (moved, "GB/s"),
    }


def matmul_rate(size: int = 3072) -> float:
    """10^9 floating-point operations a second of a float32 matrix product."""
    from larq_ensemble.keras import tf

    matrix = tf.random.stateless_normal([size, size], [0, 0])
    return 2 * size**3 / _fastest(lambda: tf.matmul(matrix, matrix)) / 1e9


def memory_rate(size: int = 2**26) -> float:
    """10^9 bytes a second that a multiplication by a number reads and writes."""
    from larq_ensemble.keras import tf

    values = tf.random.stateless_normal([size], [0, 0])
    return 2 * 4 * size / _fastest(lambda: values * 2.0) / 1e9


def _fastest(compute: Callable[[], Any], times: int = 10) -> float:
    return min(timed(lambda: compute()[..., -1].numpy()) for _ in range(times))


def timed(run: Callable[[], Any]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    run_command(main)
