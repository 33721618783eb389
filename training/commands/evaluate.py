"""`larq-ensemble evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource

from larq_ensemble.console.options import (
    INPUT,
    CommaSeparated,
    OutputFile,
    dataset_option,
    names,
    normalization_option,
    seed_option,
)
from larq_ensemble.console.reporting import Report, json_option, reporting
from larq_ensemble.console.wording import counted
from larq_ensemble.pretrained.catalog import found
from larq_ensemble.training.commands.options import split_options

_SEVERITIES = CommaSeparated(
    "N,N,...",
    click.IntRange(1, 5),
    "severities from 1 to 5 such as 1,3,5",
    lambda severities: sorted(set(severities)),
)


@click.command("evaluate", short_help="Metrics of the first m members, for each m.")
@click.argument("run", type=INPUT, metavar="RUN|F.keras|F.tflite|NAME")
@click.option(
    "--members",
    type=click.IntRange(1),
    metavar="m",
    help="Only the first m members  [default: each m from 1 to all]",
)
@click.option(
    "--trust",
    is_flag=True,
    help="Also calibration, prediction sets (conformal) and risk-coverage; fitted on the images "
    "that the training held out, where that isn't known on half of the split.",
)
@click.option(
    "--ood",
    type=names,
    default=(),
    metavar="SPEC,...",
    help="Also out-of-distribution detection: whether the uncertainty shows images of another "
    "kind, of cifar10, tfds:svhn_cropped, folder:DIR, npz:FILE or noise, in the network's size.",
)
@click.option(
    "--shift",
    type=names,
    is_flag=False,
    flag_value="all",
    default=(),
    metavar="[KIND,...]",
    help="Also on images corrupted as in CIFAR-C: noise, blur, weather, digital, or kinds such as "
    "fog,jpeg_compression  [without a value: all 15]",
)
@click.option(
    "--severities",
    type=_SEVERITIES,
    default="1,2,3,4,5",
    show_default=True,
    help="Of the corruptions.",
)
@click.option(
    "--plot",
    type=OutputFile(".png", ".svg"),
    metavar="STEM",
    help="Write STEM.png and STEM.svg of --trust and --shift; needs matplotlib.",
)
@dataset_option
@normalization_option
@split_options
@seed_option
@json_option
def command(
    run: str,
    members: int | None,
    trust: bool,
    ood: tuple[str, ...],
    shift: tuple[str, ...],
    severities: tuple[int, ...],
    plot: str | None,
    dataset: str | None,
    normalization: str | None,
    split: str,
    data_dir: str | None,
    limit_test: int | None,
    seed: int,
    json_target: str | None,
) -> None:
    """Top-1, top-5, NLL, ECE, Brier score and disagreement of a run or a file.

    Nobody knows which images the training of a Keras file held out: give data whose test split it
    has not seen. A .tflite file is run without TensorFlow, with the temperatures that calibrate
    wrote into it. Data of your own may have some of the network's classes, in folders of their
    names.

    \b
    Examples:
      larq-ensemble evaluate runs/fusion
      larq-ensemble evaluate runs/fusion --members 2 --split validation --json -
      larq-ensemble evaluate runs/photos --dataset folder:new/place/photos
      larq-ensemble evaluate ensemble.keras --dataset folder:photos
      larq-ensemble evaluate cifar100-deploynet8-nested8 --dataset folder:pets
      larq-ensemble evaluate ensemble.tflite
      larq-ensemble evaluate runs/fusion --trust --ood cifar10,noise
      larq-ensemble evaluate runs/fusion --trust --plot trust --limit-test 1000 --shift
    """
    source = click.get_current_context().get_parameter_source("severities")
    if not shift and source is not ParameterSource.DEFAULT:
        raise click.UsageError("--severities has no effect without --shift: give both or neither.")
    if plot is not None and not (trust or shift):
        raise click.UsageError("--plot draws what --trust and --shift measure: give one of them.")
    with reporting(json_target) as report:
        if plot is not None:  # fails before the work if matplotlib is missing
            from larq_ensemble.training.plots import draw_trust, save
        from larq_ensemble.training.evaluation import dir_of_own, evaluate

        own_dir = data_dir if dataset is None else dir_of_own(dataset, data_dir, ood)
        opened = _opened(run, dataset, own_dir, normalization)
        report.result = evaluate(
            opened,
            members=members,
            dataset=dataset,
            split=split,
            data_dir=data_dir,
            limit=limit_test,
            trust=trust,
            ood=ood,
            shift=shift,
            severities=severities,
            seed=seed,
        )
        _print(report, run)
        if plot is not None:
            png, svg = save(draw_trust(report.result), plot)
            report.line(f"Wrote {png} and {svg}.")
            report.result |= {"png": str(png), "svg": str(svg)}


def _opened(run: str, dataset: str | None, data_dir: str | None, normalization: str | None) -> Any:
    from larq_ensemble.runtime.file import is_tflite

    if is_tflite(run):
        from larq_ensemble.errors import EnsembleError
        from larq_ensemble.runtime import EnsembleInterpreter

        if normalization is not None:
            raise EnsembleError(
                f"`normalization` {normalization!r} is for Keras files: {run!r} normalizes its "
                "images itself. Leave it out."
            )
        return EnsembleInterpreter(run)
    from larq_ensemble.trained import open_trained

    if found(run) is not None:
        _check_tensorflow(run)
    return open_trained(run, dataset=dataset, data_dir=data_dir, normalization=normalization)


def _check_tensorflow(name: str) -> None:
    """# Raises
    ImportError: if TensorFlow is missing, which a network of the package doesn't need as a file.
    """
    try:
        import larq_ensemble.keras  # noqa: F401 (whether it can be)
    except ImportError as error:
        commands = _with_file(name, " --dataset folder:DIR")
        raise ImportError(
            f"{error} Or evaluate its file, which doesn't, on data that don't either: {commands}."
        ) from error


def _with_file(name: str, options: str = "") -> str:
    """The commands that evaluate the file of a network of the package."""
    return (
        f"`larq-ensemble pretrained {name} --out F.tflite`, then "
        f"`larq-ensemble evaluate F.tflite{options}`"
    )


def _print(report: Report, run: str) -> None:
    result = report.result
    columns = ["members", "top1", "top5", "nll", "ece", "adaptive_ece", "brier", "disagreement"]
    report.table(
        f"{run}: {result['samples']:,} {result['split']} images of {result['dataset']}"
        f"{'' if result['own_data'] else ', which it was not trained on'}",
        columns,
        [[row[column] for column in columns] for row in result["by_members"]],
    )
    if found(run) is not None:
        report.line(
            "Of the network in Keras, without the calibration of its file. To evaluate that: "
            f"{_with_file(run)}."
        )
    if "trust" in result:
        _print_trust(report)
    for other in result.get("ood", ()):
        for metric, name in (("auroc", "AUROC"), ("fpr95", "FPR95")):
            _by_uncertainty(
                report,
                f"{name} of {other['samples']:,} images of {other['dataset']} against its own",
                other["by_members"],
                metric,
            )
    if "shift" in result:
        _print_shift(report)


def _print_trust(report: Report) -> None:
    trust = report.result["trust"]
    report.table(
        f"Calibration: temperatures fitted on {trust['fitted_images']:,} images "
        f"({trust['fitted_on']}), measured on {trust['samples']:,}",
        ["members", "temperature", "NLL", "calibrated", "adaptive ECE", "calibrated", "ECE",
         "calibrated", "by chance"],
        [
            [
                row["members"],
                row["temperature"],
                *(row[f"{name}{end}"] for name in ("nll", "adaptive_ece", "ece")
                  for end in ("", "_calibrated")),
                row["ece_by_chance"],
            ]
            for row in trust["calibration"]
        ],
    )  # fmt: skip
    for alpha in dict.fromkeys(row["alpha"] for row in trust["conformal"]):
        _print_sets(report, alpha, [row for row in trust["conformal"] if row["alpha"] == alpha])
    by_probability = [row for row in trust["selective"] if row["uncertainty"] == "max_probability"]
    coverages = list(by_probability[0]["top1_at"])
    report.table(
        "Top-1 % if only the surest images get an answer, by the highest probability",
        ["members", *(f"{each} %" for each in coverages)],
        [[row["members"], *row["top1_at"].values()] for row in by_probability],
    )
    _by_uncertainty(report, "AURC, area under the risk-coverage curve", trust["selective"], "aurc")


def _print_sets(report: Report, alpha: float, rows: Sequence[dict[str, Any]]) -> None:
    low, high = rows[0]["expected_coverage"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    by = {(row["members"], row["method"]): row for row in rows}
    report.table(
        f"Sets of classes that hold the right one in {100 * (1 - alpha):g} % of all cases (of so "
        f"many images: {100 * low:.1f} to {100 * high:.1f} %), and their mean size",
        ["members", *(f"{method} {what}" for method in methods for what in ("holds %", "classes"))],
        [
            [m, *(value for method in methods for row in [by[m, method]]
                  for value in (100 * row["coverage"], row["mean_size"]))]
            for m in dict.fromkeys(row["members"] for row in rows)
        ],
    )  # fmt: skip


def _print_shift(report: Report) -> None:
    result, shift = report.result, report.result["shift"]
    severities = [f"severity {each}" for each in shift["severities"]]
    top1 = {(row["kind"], row["severity"]): row["by_members"][-1]["top1"] for row in shift["rows"]}
    of_kind = {
        kind: [top1[kind, severity] for severity in shift["severities"]] for kind in shift["kinds"]
    }
    report.table(
        f"Top-1 % of {counted(result['members'], 'member')} on corrupted images",
        ["corruption", *severities, "mean"],
        [[kind, *row, sum(row) / len(row)] for kind, row in of_kind.items()],
    )
    shown = [("top1", "Top-1 %"), ("ece", "ECE"), ("ece_calibrated", "ECE, calibrated")]
    clean = result["by_members"]
    if "trust" in result:
        clean = [{**fitted, **row} for row, fitted in zip(clean, result["trust"]["calibration"])]
    for metric, name in shown:
        if metric in shift["mean"][0]:
            of_severity = [each["by_members"] for each in shift["by_severity"]]
            report.table(
                f"{name}, mean over {counted(len(shift['kinds']), 'corruption')}",
                ["members", "none", *severities, "mean"],
                [
                    [rows[0]["members"], *(row[metric] for row in rows)]
                    for rows in zip(clean, *of_severity, shift["mean"])
                ],
            )


def _by_uncertainty(
    report: Report, title: str, rows: Sequence[dict[str, Any]], metric: str
) -> None:
    """A table of m by kind of uncertainty; of one member some are not defined."""
    kinds = list(dict.fromkeys(row["uncertainty"] for row in rows))
    values = {(row["members"], row["uncertainty"]): row[metric] for row in rows}
    report.table(
        title,
        ["members", *kinds],
        [
            [m, *(values.get((m, kind)) for kind in kinds)]
            for m in dict.fromkeys(row["members"] for row in rows)
        ],
    )
