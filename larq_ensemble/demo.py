"""`larq-ensemble demo`: all steps, so it uses both training and convert."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from larq_ensemble.console.options import OutputFolder, seed_option
from larq_ensemble.console.reporting import KERAS_VERBOSITY, Report, json_option, reporting
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import replacing

MEMBERS = 4
PRETRAIN_EPOCHS = 40
RETRAIN_EPOCHS = 15
BATCH_SIZE = 64


@click.command("demo", short_help="All steps on embedded real data, in a few minutes.")
@click.option(
    "--out",
    type=OutputFolder(),
    default="runs/demo",
    show_default=True,
    metavar="DIR",
    help="Where everything is written. An interrupted demo is resumed.",
)
@seed_option
@json_option
def command(
    out: str,
    seed: int,
    json_target: str | None,
) -> None:
    """Pretrain, train an ensemble, evaluate, convert, verify and predict.

    The data are scikit-learn's handwritten digits, 1,797 real images of 8x8 pixels. The backbone
    is a binarized ResNet-20. Four members share its frozen filters, in one .tflite file.

    In DIR it writes the runs backbone/ and fusion/, ensemble.tflite, single.tflite and images/. Run
    again, it goes on where it was interrupted, or repeats its last steps.

    \b
    Examples:
      larq-ensemble demo
      larq-ensemble demo --out runs/demo7 --seed 7 --json result.json
    """
    _check_folder(Path(out))
    with reporting(json_target) as report:
        report.result = _demo(report, Path(out), seed)


def _demo(report: Report, out: Path, seed: int) -> dict[str, Any]:
    import numpy as np

    from larq_ensemble.convert import convert_run, verify
    from larq_ensemble.data.datasets import DATASETS, DataOptions
    from larq_ensemble.training.ensemble import train_ensemble
    from larq_ensemble.training.evaluation import evaluate
    from larq_ensemble.training.pretrain import pretrain
    from larq_ensemble.training.recipes import RECIPES

    dataset = DATASETS["digits"]
    recipes = RECIPES["short"](dataset.classes, "resnet20")
    data = DataOptions()

    report.line("1/6  Pretraining a binarized ResNet-20, the backbone")
    backbone, single = pretrain(
        "resnet20",
        dataset.name,
        out / "backbone",
        recipe=recipes.pretrain.override(epochs=PRETRAIN_EPOCHS, batch_size=BATCH_SIZE),
        seed=seed,
        data=data,
        resume=True,
        verbose=KERAS_VERBOSITY,
    )
    report.line(f"2/6  Training {MEMBERS} members that share its frozen filters")
    run, _ = train_ensemble(
        backbone,
        out / "fusion",
        members=MEMBERS,
        recipe=recipes.retrain.override(epochs=RETRAIN_EPOCHS, batch_size=BATCH_SIZE),
        seed=seed,
        data=data,
        resume=True,
        verbose=KERAS_VERBOSITY,
    )
    report.line("3/6  Evaluating the first m members on the test split, m = 1 to 4")
    metrics = evaluate(run)

    report.line("4/6  Converting to one .tflite file")
    path = out / "ensemble.tflite"
    test = data.load(dataset, seed).test
    converted = convert_run(run, path, images=test.images[:8])
    separate = convert_run(backbone, out / "single.tflite", images=test.images[:8])
    report.line("5/6  Comparing Keras with the interpreter on the test images")
    agreement = verify(run.model, path, np.asarray(test.images), test.labels)
    report.line("6/6  Classifying image files without TensorFlow")
    _predict_files(report, path, out / "images", test)

    rows = [
        [f"first {row['members']} of {MEMBERS} members", row["top1"], row["nll"]]
        for row in metrics["by_members"]
    ]
    rows[-1][0] = f"all {MEMBERS} members"
    rows[-1] += [converted.bytes, converted.lower_bound_bytes, MEMBERS * separate.bytes]
    report.table(
        f"Test top-1 of {len(test)} digits and storage, {run.path}",
        ["network", "top-1 %", "NLL", "file bytes", "lower bound", f"{MEMBERS} files"],
        [["single network", single["test_top1"], None, separate.bytes], *rows],
    )
    report.line(
        f"The file is {converted.ratio:.2f} times its lower bound and "
        f"{converted.bytes / (MEMBERS * separate.bytes):.2f} times {MEMBERS} separate files. "
        f"Keras and the interpreter agree on {100 * agreement.ensemble_argmax_agreement:.1f} % "
        "of the test images."
    )
    report.line(f"Try: larq-ensemble predict {path} {out / 'images'}/*.png --members 2")
    return {
        "accuracy_single": single["test_top1"],
        "accuracy_ensemble": metrics["top1"],
        "by_members": metrics["by_members"],
        "tflite": str(path),
        "tflite_bytes": converted.bytes,
        "theory_bytes": converted.lower_bound_bytes,
        "separate_bytes": MEMBERS * separate.bytes,
        "ensemble_argmax_agreement": agreement.ensemble_argmax_agreement,
        "run": str(run.path),
    }


def _check_folder(out: Path) -> None:
    """Raises if `out` holds files of the demo's names that the demo did not write."""
    if not (out / "backbone").exists():
        for name in ("fusion", "ensemble.tflite", "single.tflite", "images"):
            if (out / name).exists():
                raise EnsembleError(
                    f"`out` {str(out)!r} holds {name}, which is not of a demo: give a new folder."
                )


def _predict_files(report: Report, tflite: Path, folder: Path, test: Any) -> None:
    """Writes some test images as PNG and classifies them in a process without TensorFlow."""
    from PIL import Image

    files = []
    for index in range(5):
        file = folder / f"test{index}-label{test.labels[index]}.png"
        with replacing(file) as temporary:
            Image.fromarray(test.images[index].squeeze(-1)).save(temporary)
        files.append(str(file))
    for members in (1, MEMBERS):
        program = [sys.executable, "-m", "larq_ensemble", "predict"]
        done = subprocess.run(
            [*program, str(tflite), *files, "--members", str(members)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise EnsembleError(f"`larq-ensemble predict` failed: {done.stderr.strip()}")
        for line in done.stdout.splitlines():
            report.line(line)
