"""Memory and time of a training step of fusion, plain and with recomputation per member.

Each measurement is a process of its own. It compiles the ensemble, trains some steps on one batch
of noise, and reports its peak resident memory less what was resident before the first step
(libraries, weights). Freed memory returns to the system at once, so the peak counts only what is
alive. TensorFlow's graph grows with M but not with the batch: it is measured with batches of two.
The rest is activations.

    python benchmarks/recompute_memory.py
    python benchmarks/recompute_memory.py --model resnet18 --width 0.25 --batch-size 64
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time

import click

from larq_ensemble.cli import run_command
from larq_ensemble.console.options import POSITIVE, member_counts

# glibc: one arena, and every block from 64 KiB on is a mapping that ends when it is freed.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "0",
}

GRAPH_BATCH = 2


@click.command()
@click.option("--model", "model_name", default="resnet20", show_default=True)
@click.option("--width", type=POSITIVE, default=1.0, show_default=True, help="Times the channels.")
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True)
@click.option(
    "--members",
    type=member_counts,
    default="2,4,8",
    show_default=True,
    help="M, with commas between.",
)
@click.option(
    "--steps", type=click.IntRange(1), default=3, show_default=True, help="Timed, after the first."
)
@click.option("--one", hidden=True, help="plain or recompute: measure M in this process.")
def main(
    model_name: str,
    width: float,
    batch_size: int,
    members: tuple[int, ...],
    steps: int,
    one: str | None,
) -> None:
    """Measure the peak memory and the time of training steps for each M."""
    if one:
        print(json.dumps(_measure(model_name, width, batch_size, members[0], steps, one)))
        return
    print(f"{model_name}, width {width}, batches of {batch_size}; memory in MB")
    print("  M  mode         peak   graph  activations  ratio  s/step  ratio")
    for count in members:
        arguments = ["--model", model_name, "--width", str(width), "--members", str(count)]
        plain: tuple[float, float] | None = None
        for mode in ("plain", "recompute"):
            arguments_of_mode = [*arguments, "--steps", str(steps), "--one", mode]
            peak, seconds = _in_process([*arguments_of_mode, "--batch-size", str(batch_size)])
            graph, _ = _in_process([*arguments_of_mode, "--batch-size", str(GRAPH_BATCH)])
            activations = peak - graph
            plain = plain or (activations, seconds)
            print(
                f"{count:>3}  {mode:<9} {peak:7,.0f} {graph:7,.0f} {activations:12,.0f} "
                f"{activations / plain[0]:6.2f} {seconds:7.2f} {seconds / plain[1]:6.2f}",
                flush=True,
            )


def _in_process(arguments: list[str]) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        env={**os.environ, **ALLOCATOR, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    megabytes, seconds = json.loads(done.stdout.splitlines()[-1])
    return megabytes, seconds


def _measure(
    model_name: str, width: float, batch_size: int, members: int, steps: int, mode: str
) -> tuple[float, float]:
    """Peak memory of the steps in MB, and the median seconds of one."""
    from larq_ensemble.ensembles import build_ensemble
    from larq_ensemble.keras import tf
    from larq_ensemble.models import build_model

    backbone = build_model(model_name, input_shape=(32, 32, 3), classes=100, width=width)
    ensemble = build_ensemble(backbone, members)
    ensemble.compile("adam", execution="plain", recompute=mode == "recompute")
    train = ensemble.make_train_function()
    images = tf.random.stateless_normal([batch_size, 32, 32, 3], seed=[0, 0])
    labels = tf.random.stateless_uniform([batch_size], [0, 1], 0, 100, dtype=tf.int32)
    batches = iter(tf.data.Dataset.from_tensors((images, labels)).cache().repeat())
    before = _resident()
    seconds = []
    for _ in range(1 + steps):
        started = time.perf_counter()
        float(train(batches)["loss"])
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (peak - before) / 1e6, statistics.median(seconds[1:])


def _resident() -> int:
    """Bytes that are resident now (Linux)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    run_command(main)
