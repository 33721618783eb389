"""`larq-ensemble calibrate`."""

from __future__ import annotations

import click

from larq_ensemble.console.options import data_dir_option, limit_test_option
from larq_ensemble.console.reporting import json_option, reporting

_ROWS = 12  # of the frontier, in the table; the JSON and the plot have all


@click.command("calibrate", short_help="Thresholds for adaptive prediction, into the file.")
@click.argument("tflite", metavar="F.tflite")
@click.option(
    "--accuracy-loss",
    type=click.FloatRange(0),
    metavar="POINTS",
    help="Stop as early as loses no more top-1 against all members  [default: 0.2]",
)
@click.option(
    "--mean-members",
    type=click.FloatRange(1),
    metavar="m",
    help="Instead: lose as little as m members an image, on average, allow.",
)
@click.option("--plot", metavar="STEM", help="Write STEM.png and STEM.svg; needs matplotlib.")
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Of the interpreter."
)
@data_dir_option
@limit_test_option
@json_option
def command(
    tflite: str,
    accuracy_loss: float | None,
    mean_members: float | None,
    plot: str | None,
    threads: int,
    data_dir: str | None,
    limit_test: int | None,
    json_target: str | None,
) -> None:
    """Fit temperatures and stopping thresholds, and write them into the file's metadata.

    They are fitted on the images that training held out for validation. Test images then show what
    they do; nothing is chosen by those. Nothing but the metadata changes in the file.

    \b
    Examples:
      larq-ensemble calibrate ensemble.tflite
      larq-ensemble calibrate ensemble.tflite --mean-members 2 --plot cascade
    """
    from larq_ensemble.errors import EnsembleError
    from larq_ensemble.runtime import EnsembleInterpreter
    from larq_ensemble.runtime.calibration import calibrate
    from larq_ensemble.runtime.combination import combine
    from larq_ensemble.runtime.metrics import negative_log_likelihood

    with reporting(json_target) as report:
        if accuracy_loss is not None and mean_members is not None:
            raise click.UsageError("Give --accuracy-loss or --mean-members, not both.")
        ensemble = EnsembleInterpreter(tflite, threads=threads)
        metadata, total = ensemble.metadata, ensemble.max_members
        if mean_members is not None and mean_members > total:
            raise EnsembleError(
                f"--mean-members must be from 1 to {total}, the members of {tflite!r}. "
                f"Received: {mean_members:g}."
            )
        split = metadata.validation_split
        if metadata.dataset is None or not {"seed", "share"} <= split.keys():
            raise EnsembleError(
                f"{tflite!r} doesn't say which images its training held out: convert it from a "
                "run, or call larq_ensemble.runtime.calibration.calibrate with images of your own."
            )
        if plot is not None:  # without matplotlib, say so before the work
            from larq_ensemble.training.plots import draw_cascade, save
        from larq_ensemble.data.datasets import DATASETS, DataOptions

        limit_train = split.get("limit_train")
        options = DataOptions(
            data_dir,
            validation=split["share"],
            limit_train=None if limit_train is None else int(limit_train),
            limit_test=limit_test,
        )
        splits = options.load(DATASETS[metadata.dataset], int(split["seed"]))
        validation, test = splits.validation, splits.test
        if not len(validation):
            raise EnsembleError(f"The training of {tflite!r} held out no validation images.")
        report.line(
            f"{total} members on {len(validation):,} validation and {len(test):,} test images ..."
        )
        found = calibrate(
            tflite,
            validation.images,
            validation.labels,
            accuracy_loss=accuracy_loss,
            mean_members=mean_members,
            threads=threads,
        )
        logits = ensemble.predict_logits(test.images)
        fixed = [found.score_fixed(logits, test.labels, m) for m in range(1, total + 1)]
        adaptive = [found.score(logits, test.labels, point) for point in found.frontier]
        chosen = adaptive[found.frontier.index(found.chosen)]
        shown = range(0, len(adaptive), max(1, len(adaptive) // _ROWS))
        report.table(
            f"{tflite}: {len(test):,} test images of {metadata.dataset}",
            ["members", "mean members", "top-1 %", "against all"],
            [
                [name, score.mean_members, score.top1, score.top1 - fixed[-1].top1]
                for name, score in [
                    *((f"first {m}", score) for m, score in enumerate(fixed, 1)),
                    *(("adaptive", adaptive[index]) for index in shown),
                    ("in the file", chosen),
                ]
            ],
        )
        plain, calibrated = (
            [negative_log_likelihood(predict(logits[:m]), test.labels) for m in range(1, total + 1)]
            for predict in (
                lambda rows: combine(rows, metadata.scheme, metadata.weights),
                found.predict,
            )
        )
        report.table(
            "Temperatures, and the negative log-likelihood of the test labels (nats)",
            ["members", "temperature", "as trained", "calibrated"],
            zip(map(str, range(1, total + 1)), found.temperatures, plain, calibrated),
        )
        report.line(
            f"Wrote into {tflite}: the temperatures, and thresholds for "
            f"{found.chosen.mean_members:.2f} members an image, on average, which are expected to "
            f"lose {found.chosen.expected_loss:.2f} points of top-1."
        )
        report.result = {
            "temperatures": found.temperatures,
            "thresholds": found.chosen.cascade.thresholds,
            "expected_mean_members": found.chosen.mean_members,
            "expected_loss": found.chosen.expected_loss,
            "mean_members": chosen.mean_members,
            "top1": chosen.top1,
            "stopped": chosen.stopped,
            "top1_by_members": [score.top1 for score in fixed],
            "nll_as_trained": plain,
            "nll": calibrated,
            "frontier": [
                {
                    "thresholds": point.cascade.thresholds,
                    "expected_mean_members": point.mean_members,
                    "expected_loss": point.expected_loss,
                    "mean_members": score.mean_members,
                    "top1": score.top1,
                }
                for point, score in zip(found.frontier, adaptive)
            ],
            "validation_images": len(validation),
            "test_images": len(test),
        }
        if plot is not None:
            canvas = draw_cascade(adaptive, fixed, chosen, dataset=metadata.dataset)
            png, svg = save(canvas, plot)
            report.line(f"Wrote {png} and {svg}.")
            report.result |= {"png": str(png), "svg": str(svg)}
