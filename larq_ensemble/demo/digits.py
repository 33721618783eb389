"""The demo on digits: all steps, so it uses both training and convert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from larq_ensemble.console.reporting import KERAS_VERBOSITY, Report
from larq_ensemble.demo.files import predict_files, write_images
from larq_ensemble.errors import EnsembleError

MEMBERS = 4
PRETRAIN_EPOCHS = 40
RETRAIN_EPOCHS = 15
BATCH_SIZE = 64


def run_demo(report: Report, folder: str, seed: int) -> dict[str, Any]:
    """Pretrains, trains an ensemble, evaluates, converts, verifies and predicts.

    # Arguments
        report: where it says what it does.
        folder: where everything is written.
        seed: of both trainings.

    # Returns
        The result of the command.
    """
    out = Path(folder)
    _check_folder(out)
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
    report.line(
        f"2/6  Training {MEMBERS} members that share its frozen filters; the first is the backbone"
    )
    run, _ = train_ensemble(
        backbone,
        out / "ensemble",
        members=MEMBERS,
        scheme="nested_fusion",
        keep_pretrained=True,
        prefix_weights=[m**4 for m in range(1, MEMBERS + 1)],
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
    files = write_images(out / "images", test.images[:5], test.labels)
    predict_files(report, path, files, (1, MEMBERS))

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
        for name in ("ensemble", "ensemble.tflite", "single.tflite", "images"):
            if (out / name).exists():
                raise EnsembleError(
                    f"`out` {str(out)!r} holds {name}, which is not of a demo: give a new folder."
                )
