"""`larq-ensemble calibrate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from larq_ensemble.console.options import (
    INPUT,
    NOT_NEGATIVE,
    SPECS,
    FiniteFloat,
    OutputFile,
    data_dir_option,
    limit_test_option,
    seed_option,
)
from larq_ensemble.console.reporting import Report, json_option, reporting
from larq_ensemble.runtime.commands.options import backend_option

if TYPE_CHECKING:
    from larq_ensemble.data.datasets import Dataset, Split
    from larq_ensemble.runtime import EnsembleInterpreter
    from larq_ensemble.runtime.calibration import Calibration, Score
    from larq_ensemble.runtime.metadata import EnsembleMetadata

_ROWS = 12  # of the frontier in the table; the JSON and the plot have all


@click.command("calibrate", short_help="Thresholds for adaptive prediction, into the file.")
@click.argument("tflite", type=INPUT, metavar="F.tflite")
@click.option(
    "--accuracy-loss",
    type=NOT_NEGATIVE,
    metavar="POINTS",
    help="Expected loss of top-1 against all members, at most  [default: 0.2]",
)
@click.option(
    "--mean-members",
    type=FiniteFloat(1),
    metavar="m",
    help="Instead: run at most m members per image on average.",
)
@click.option(
    "--plot",
    type=OutputFile(".png", ".svg"),
    metavar="STEM",
    help="Write STEM.png and STEM.svg; needs matplotlib.",
)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Of the interpreter."
)
@click.option(
    "--dataset",
    metavar="SPEC",
    help="Where the data of the training are, which a file doesn't say of data of your own, or "
    f"others of the same classes: {SPECS}  [default: the built-in data of the training]",
)
@backend_option
@data_dir_option
@limit_test_option
@seed_option
@json_option
def command(
    tflite: str,
    accuracy_loss: float | None,
    mean_members: float | None,
    plot: str | None,
    threads: int,
    backend: str | None,
    dataset: str | None,
    data_dir: str | None,
    limit_test: int | None,
    seed: int,
    json_target: str | None,
) -> None:
    """Fit temperatures and stopping thresholds and write them into the file's metadata.

    They are fitted on the validation images that training held out, and evaluated on the test
    images. Where it held out none, or nobody knows which, as of Keras files, the test images are
    cut in two by --seed, one half for each. Data of your own without a test split are all test
    images for a network of built-in data. Nothing else in the file changes. With few images little
    changes, and if their labels can't show that the loss stays near --accuracy-loss, no image stops
    early.

    \b
    Examples:
      larq-ensemble calibrate ensemble.tflite
      larq-ensemble calibrate ensemble.tflite --mean-members 2 --plot cascade
      larq-ensemble calibrate photos.tflite --dataset folder:photos
      larq-ensemble calibrate cifar10.tflite --dataset folder:of/the/ten/classes
    """
    if accuracy_loss is not None and mean_members is not None:
        raise click.UsageError("Give --accuracy-loss or --mean-members, not both.")
    import numpy as np

    from larq_ensemble.runtime import EnsembleInterpreter
    from larq_ensemble.runtime.calibration import check_can_calibrate, check_limits, fit, write

    with reporting(json_target) as report:
        check_can_calibrate(tflite)
        ensemble = EnsembleInterpreter(tflite, threads=threads, backend=backend)
        total = ensemble.max_members
        check_limits(accuracy_loss, mean_members, total)
        if plot is not None:  # fails before the work if matplotlib is missing
            from larq_ensemble.training.plots import draw_cascade, save
        validation, test, data, held_out = _splits(
            ensemble.metadata, tflite, dataset, data_dir, limit_test, seed
        )
        report.line(
            f"{total} members on {len(validation):,} {'validation' if held_out else 'other test'} "
            f"and {len(test):,} test images of {data.name} ..."
        )
        found = fit(
            ensemble.predict_logits(np.asarray(validation.images)),
            validation.labels,
            ensemble.scheme,
            ensemble.weights,
            accuracy_loss=accuracy_loss,
            mean_members=mean_members,
        )
        write(tflite, ensemble.metadata, found)
        scores = _scores(found, ensemble, test)
        report.result = {
            **scores.to_json(found),
            "validation_images": len(validation),
            "dataset": data.name,
            "backend": ensemble.backend,
            "held_out": held_out,
        }
        _print(report, tflite, ensemble.backend, found, scores, data.name)
        if plot is not None:
            canvas = draw_cascade(scores.adaptive, scores.fixed, scores.chosen, dataset=data.name)
            png, svg = save(canvas, plot)
            report.line(f"Wrote {png} and {svg}.")
            report.result |= {"png": str(png), "svg": str(svg)}


def _splits(
    metadata: EnsembleMetadata,
    tflite: str,
    spec: str | None,
    data_dir: str | None,
    limit_test: int | None,
    seed: int,
) -> tuple[Split, Split, Dataset, bool]:
    """Images to fit on, images to score on, their data set, and whether training held them out.

    They are those of the training that the file comes from, split as it was. Where that is not
    known, or it held out none, the test split is cut in two.

    # Raises
        EnsembleError: if the file doesn't say which data these are, or they have no test images.
    """
    from larq_ensemble.errors import EnsembleError
    from larq_ensemble.training.file_data import (
        data_of_file,
        halves,
        nothing_held_out,
        split_of_training,
    )

    known = split_of_training(metadata)
    if spec is None and known is None:
        raise EnsembleError(
            f"{tflite!r} doesn't say which images its training held out: it comes from a "
            "Keras model, an untrained run or an older version. Give data as `dataset`, whose test "
            "split is cut in two, or convert a trained run directory with this version."
        )
    dataset, is_own = data_of_file(metadata, repr(tflite), spec, data_dir)
    if known is not None and is_own:
        splits = known.load(dataset, data_dir, limit_test)
    else:
        splits = nothing_held_out(dataset, data_dir, limit_test)
    if not len(splits.test):
        raise EnsembleError(
            f"The data {dataset.name!r} have no test images to score the calibration on: give "
            "others as `dataset`."
        )
    if not len(splits.validation):
        first, second = halves(len(splits.test), seed, dataset.name)
        return splits.test.take(first), splits.test.take(second), dataset, False
    return splits.validation, splits.test, dataset, True


@dataclass(frozen=True)
class _Scores:
    """What the calibration does on the test images.

    # Arguments
        fixed: of the first m members, for each m.
        adaptive: of the cascades of the frontier.
        chosen: of the cascade in the file.
        nll_as_trained, nll: negative log-likelihood of the labels for each m, in nats, before and
            after the calibration.
        images: how many.
    """

    fixed: list[Score]
    adaptive: list[Score]
    chosen: Score
    nll_as_trained: list[float]
    nll: list[float]
    images: int

    def to_json(self, found: Calibration) -> dict[str, Any]:
        return {
            "temperatures": found.temperatures,
            "thresholds": found.chosen.cascade.thresholds,
            "expected_mean_members": found.chosen.mean_members,
            "expected_loss": found.chosen.expected_loss,
            "held_out_loss": found.held_out_loss,
            "loss_bound": found.loss_bound,
            "mean_members": self.chosen.mean_members,
            "top1": self.chosen.top1,
            "stopped": self.chosen.stopped,
            "top1_by_members": [score.top1 for score in self.fixed],
            "nll_as_trained": self.nll_as_trained,
            "nll": self.nll,
            "frontier": [
                {
                    "thresholds": point.cascade.thresholds,
                    "expected_mean_members": point.mean_members,
                    "expected_loss": point.expected_loss,
                    "mean_members": score.mean_members,
                    "top1": score.top1,
                }
                for point, score in zip(found.frontier, self.adaptive)
            ],
            "test_images": self.images,
        }


def _scores(found: Calibration, ensemble: EnsembleInterpreter, test: Split) -> _Scores:
    import numpy as np

    from larq_ensemble.runtime.combination import combine
    from larq_ensemble.runtime.metrics import negative_log_likelihood

    metadata, labels = ensemble.metadata, test.labels
    logits = ensemble.predict_logits(np.asarray(test.images))
    counts = range(1, ensemble.max_members + 1)
    adaptive = [found.score(logits, labels, point) for point in found.frontier]
    return _Scores(
        fixed=[found.score_fixed(logits, labels, count) for count in counts],
        adaptive=adaptive,
        chosen=found.score(logits, labels, found.chosen),
        nll_as_trained=[
            negative_log_likelihood(
                combine(logits[:count], metadata.scheme, metadata.weights), labels
            )
            for count in counts
        ],
        nll=[negative_log_likelihood(found.predict(logits[:count]), labels) for count in counts],
        images=len(labels),
    )


def _print(
    report: Report,
    tflite: str,
    backend: str,
    found: Calibration,
    scores: _Scores,
    dataset: str,
) -> None:
    adaptive = scores.adaptive[:: max(1, len(scores.adaptive) // _ROWS)]
    report.table(
        f"{tflite} on {backend}: {scores.images:,} test images of {dataset}",
        ["members", "mean members", "top-1 %", "points against all"],
        [
            [name, score.mean_members, score.top1, score.top1 - scores.fixed[-1].top1]
            for name, score in [
                *((f"first {count}", score) for count, score in enumerate(scores.fixed, 1)),
                *(("other thresholds", score) for score in adaptive),
                ("in the file", scores.chosen),
            ]
        ],
    )
    report.table(
        "Temperatures, and the negative log-likelihood of the test labels (nats)",
        ["members", "temperature", "as trained", "calibrated"],
        [
            [str(count), *row]
            for count, row in enumerate(
                zip(found.temperatures, scores.nll_as_trained, scores.nll), 1
            )
        ],
    )
    chosen = found.chosen
    report.line(f"Wrote the temperatures and thresholds into {tflite}.")
    if chosen.mean_members == len(scores.fixed):
        report.line(f"No image stops before all {len(scores.fixed)} members.")
    else:
        report.line(
            f"On average a held-out image takes {chosen.mean_members:.2f} members, for an expected "
            f"loss of {found.held_out_loss:.2f} points of top-1; with 95 % confidence it is at "
            f"most {found.loss_bound:.2f}."
        )
