"""Times the steps of a fusion training in a process of its own, for the benchmarks of training.

It trains as `larq-ensemble train` does, on random images of CIFAR-100's shape. It reports when the
network was built, when each step ended, and the peak resident memory.

    python benchmarks/fusion_steps.py '{"members": 4, "batch": 256, "steps": 5}'
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from larq_ensemble.errors import EnsembleError

#: Steps that are not timed, the first included.
LEAD_IN = 2

STEPS = Path(__file__)


def process_options(*, members: str, rounds: int) -> Callable[[Callable], Callable]:
    """The options of a benchmark that measures processes for some numbers of members.

    # Arguments
        members, rounds: what they are unless told otherwise.
    """
    at_least_1 = click.IntRange(1)
    options = [
        click.option(
            "--members", callback=_numbers, default=members, show_default=True,
            help="M, commas between.",
        ),
        click.option("--batch", type=at_least_1, default=256, show_default=True, help="Images."),
        click.option(
            "--steps", type=at_least_1, default=5, show_default=True, help="Timed, of each process."
        ),
        click.option(
            "--rounds", type=at_least_1, default=rounds, show_default=True,
            help="Processes for each thing that is measured.",
        ),
        click.option(
            "--width", type=float, default=1.0, show_default=True, help="Times the channels."
        ),
    ]  # fmt: skip

    def decorate(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _numbers(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    try:
        found = [int(each) for each in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise click.BadParameter(f"whole numbers from 1 on with commas between, got {text!r}.")
    return found


@dataclass(frozen=True)
class Training:
    """What is trained.

    # Arguments
        members: M.
        batch: images per step.
        steps: timed, after those of the lead-in.
        width: times the channels of XNOR-ResNet-20.
        bfloat16: binary convolutions in bfloat16.
        recompute: in the activation memory of one member.
    """

    members: int
    batch: int = 256
    steps: int = 5
    width: float = 1.0
    bfloat16: bool = False
    recompute: bool = False


@dataclass(frozen=True)
class Measurement:
    """What one process measured, in seconds and bytes.

    # Arguments
        training: what it trained.
        build: from the start of building, with all libraries imported, to that of the training.
        first_step: from the start of building to the end of the first step.
        steps: each of the timed steps.
        peak: the most memory that was resident, of the whole process, up to the last timed step.
    """

    training: Training
    build: float
    first_step: float
    steps: tuple[float, ...]
    peak: int

    @property
    def member_images(self) -> float:
        """Member-images per second, by the median of the steps."""
        return self.training.members * self.training.batch / statistics.median(self.steps)


def measure(
    training: Training,
    script: Path = STEPS,
    *options: str,
    python: str = sys.executable,
) -> Measurement:
    """Measures in a process of its own.

    # Arguments
        script: what runs there: takes the training as JSON and `options`, prints the start of
            building, that of training, the ends of all steps and the peak, as JSON, on its last
            line.
        python: its interpreter.

    # Raises
        EnsembleError: if it fails.
    """
    times = last_line([python, str(script), json.dumps(asdict(training)), *options])
    built, *ends = (each - times["start"] for each in (times["built"], *times["ends"]))
    steps = tuple(after - before for before, after in itertools.pairwise(ends))
    return Measurement(training, built, ends[0], steps[LEAD_IN - 1 :], times["peak"])


def last_line(command: Sequence[str]) -> Any:
    """What a program says as JSON on the last line of its output.

    # Raises
        EnsembleError: if it fails, with the end of what it said.
    """
    done = subprocess.run(
        command,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise EnsembleError(
            f"{Path(command[1]).name} ended with code {done.returncode}; its last line: {said[-1]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


@dataclass
class Clock:
    """The times of a training, by `time.perf_counter`, as `measure` takes them."""

    start: float = field(default_factory=time.perf_counter)
    built: float = 0.0
    ends: list[float] = field(default_factory=list)
    peak: int = 0

    def step_ended(self) -> None:
        self.ends.append(time.perf_counter())
        unit = 1 if sys.platform == "darwin" else 1024
        self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def train(training: Training) -> Clock:
    """Trains an ensemble on a backbone that is read from its run directory."""
    import dataclasses

    import numpy as np

    import larq_ensemble.training.fit as fit
    from larq_ensemble.data.datasets import DATASETS, DataOptions, Split
    from larq_ensemble.training.ensemble import train_ensemble
    from larq_ensemble.training.pretrain import pretrain
    from larq_ensemble.training.recipes import RECIPES

    draw = np.random.default_rng(0)

    def noise(images: int) -> Split:
        return Split(
            draw.integers(0, 256, (images, 32, 32, 3), np.uint8),
            draw.integers(0, 100, images, np.int32),
        )

    data = noise((LEAD_IN + training.steps) * training.batch), noise(0)
    dataset = dataclasses.replace(DATASETS["cifar100"], name="noise", read=lambda data_dir: data)
    DATASETS.register("noise", dataset)
    recipes = RECIPES["short"](100)
    options = DataOptions(validation=0.0)
    clock = Clock()

    class StepTimer(fit.EpochTimer):
        """The trainings' own timer, which keeps the times as well."""

        def on_train_begin(self, logs: Any = None) -> None:
            clock.built = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            super().on_train_batch_end(batch, logs)
            clock.step_ended()

    fit.EpochTimer = StepTimer  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        backbone, _ = pretrain(
            "resnet20", "noise", Path(folder) / "backbone",
            recipe=recipes.pretrain.override(epochs=0), width=training.width, data=options,
            verbose=0,
        )  # fmt: skip
        clock.start = time.perf_counter()
        train_ensemble(
            backbone, Path(folder) / "ensemble", members=training.members,
            recipe=recipes.retrain.override(epochs=1, batch_size=training.batch), data=options,
            bfloat16=training.bfloat16, recompute=training.recompute, verbose=0,
        )  # fmt: skip
    return clock


def write_reference(path: str, width: float, members: int = 2, images: int = 4) -> None:
    """Writes what another implementation of the same training can be compared with.

    An ensemble in double precision, in which signs do not hang on rounding: `images`, `labels`, the
    `logits` of each member in inference; by member (or `shared`) and layer the weights,
    `before/...`, and what one step of gradient descent of rate 1 makes of those that are trained,
    `after/...`.
    """
    import numpy as np

    from larq_ensemble.ensembles import build_ensemble
    from larq_ensemble.keras import keras, lq
    from larq_ensemble.models import build_model

    keras.backend.set_floatx("float64")
    keras.utils.set_random_seed(0)
    backbone = build_model("resnet20", input_shape=(32, 32, 3), classes=100, width=width)
    draw = np.random.default_rng(0)
    for layer in backbone.layers:
        values = layer.get_weights()
        if isinstance(layer, lq.layers.QuantConv2D):
            # Binarized to powers of two: sums of them are exact in any order.
            scales = 2.0 ** -draw.integers(1, 5, values[0].shape[-1])
            values = [np.where(values[0] < 0, -scales, scales)]
        elif isinstance(layer, (keras.layers.BatchNormalization, keras.layers.PReLU)):
            values = [each + draw.uniform(0, 0.5, each.shape) for each in values]
        layer.set_weights(values)
    ensemble = build_ensemble(backbone, members)
    owners = {"shared": ensemble.shared_layers()}
    owners |= {str(member): ensemble.own_layers(member) for member in range(members)}

    def weights(moment: str, trained: bool) -> dict[str, np.ndarray]:
        return {
            f"{moment}/{owner}/{layer.name.removeprefix(f'member_{owner}_')}/"
            f"{variable.name.split('/')[-1].split(':')[0]}": variable.numpy()
            for owner, layers in owners.items()
            for layer in layers
            for variable in (layer.trainable_weights if trained else layer.weights)
        }

    batch = draw.normal(size=(images, 32, 32, 3)), draw.integers(0, 100, images)
    found = {"images": batch[0], "labels": batch[1], "width": np.array(width)}
    found |= {"logits": np.stack(ensemble(batch[0])[:members]), **weights("before", False)}
    ensemble.compile(keras.optimizers.SGD(1.0), execution="plain")
    ensemble.train_on_batch(*batch)
    np.savez(path, **found, **weights("after", True))


if __name__ == "__main__":
    if sys.argv[1] == "--reference":
        write_reference(sys.argv[2], float(sys.argv[3]))
        print("{}")
    else:
        print(json.dumps(asdict(train(Training(**json.loads(sys.argv[1]))))))
