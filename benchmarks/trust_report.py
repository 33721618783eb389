"""Whether the probabilities of runs can be trusted: the tables of `docs/reports/trust.md`.

Evaluates networks of one kind, such as runs of three seeds, as `larq-ensemble evaluate --trust
--ood --shift` does, and writes the mean over them, with the standard deviation if there are
several. The corrupted images may be fewer than the others, because there are as many times more of
them as there are kinds and severities. Results are kept in OUT: what is there is not evaluated
again. A page may have a part for each data set, between two lines that name it; the figure is put
beside the page.

    python benchmarks/trust_report.py cifar100-deploynet8-nested8 --ood cifar10,noise --out trust
    python benchmarks/trust_report.py runs/s0 runs/s1 runs/s2 --ood cifar10,noise \
        --shift-images 2000 --out trust --write docs/reports/trust.md
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from page import made_by, mean_and_spread, write_between, write_option

from larq_ensemble.cli import run_command
from larq_ensemble.console.markdown import markdown_table
from larq_ensemble.console.options import INPUT, LIMITED, OutputFolder, data_dir_option, names
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.data.datasets import limit_key
from larq_ensemble.data.opening import identity, reads_tfds
from larq_ensemble.files import read_json, write_text

#: The generated part of a page is between these two lines, which have the data set.
BEGIN, END = "<!-- trust on {}: by benchmarks/trust_report.py -->", "<!-- end of trust on {} -->"

Result = dict[str, Any]


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, with its title."""
    return f"{title}\n\n{markdown_table(columns, rows)}"


def shown(result: Result) -> list[int]:
    """The numbers of members with a row: 1, 2, 4, ... and the last."""
    from larq_ensemble.training.plots import shown_counts

    return shown_counts([row["members"] for row in result["by_members"]])


def tables(results: Sequence[Result], shifts: Sequence[Result]) -> Iterator[str]:
    """All tables of the report.

    # Arguments
        results: of `evaluate` with `trust` and `ood`, one a run.
        shifts: of `evaluate` with `trust` and `shift`, one a run; empty: none.
    """
    counts = shown(results[0])
    yield _calibration(results, counts)
    yield _sets(results, counts)
    yield _selective(results, counts)
    for index, other in enumerate(results[0].get("ood", ())):
        yield _ood(results, counts, index, other)
    if shifts:
        yield from _shift(shifts, counts)


def _calibration(results: Sequence[Result], counts: Sequence[int]) -> str:
    rows = []
    for m in counts:
        top1 = [_row(result["by_members"], members=m)["top1"] for result in results]
        fitted = [_row(result["trust"]["calibration"], members=m) for result in results]
        cells = [
            mean_and_spread(top1),
            mean_and_spread([row["temperature"] for row in fitted]),
        ]
        for key in ("ece", "ece_calibrated", "adaptive_ece_calibrated", "ece_by_chance"):
            cells.append(mean_and_spread([row[key] for row in fitted], 4))
        rows.append([str(m), *cells])
    return table(
        f"Calibration, {results[0]['samples']:,} test images of {results[0]['dataset']}; "
        f"temperatures fitted on {results[0]['trust']['fitted_images']:,} others",
        ["m", "top-1 %", "temperature", "ECE", "calibrated", "adaptive ECE, calibrated",
         "ECE by chance"],
        rows,
    )  # fmt: skip


def _sets(results: Sequence[Result], counts: Sequence[int]) -> str:
    rows = []
    for one in results[0]["trust"]["conformal"]:
        if one["members"] not in counts:
            continue
        keys = {key: one[key] for key in ("members", "alpha", "method")}
        found = [_row(result["trust"]["conformal"], **keys) for result in results]
        low, high = one["expected_coverage"]
        rows.append(
            [
                str(one["members"]),
                f"{100 * (1 - one['alpha']):g}",
                one["method"].upper(),
                mean_and_spread([100 * row["coverage"] for row in found], 1),
                f"{100 * low:.1f} to {100 * high:.1f}",
                mean_and_spread([row["mean_size"] for row in found]),
            ]
        )
    return table(
        "Split-conformal sets",
        ["m", "promised %", "method", "held %", "expected, 95 %", "classes, on average"],
        rows,
    )


def _selective(results: Sequence[Result], counts: Sequence[int]) -> str:
    coverages = list(results[0]["trust"]["selective"][0]["top1_at"])
    rows = []
    for m in counts:
        wanted = {"members": m, "uncertainty": "max_probability"}
        found = [_row(result["trust"]["selective"], **wanted) for result in results]
        top1 = [mean_and_spread([row["top1_at"][each] for row in found]) for each in coverages]
        areas = [mean_and_spread([row[key] for row in found], 4) for key in ("aurc", "e_aurc")]
        rows.append([str(m), *top1, *areas])
    return table(
        "Top-1 % of the surest images, by the highest probability",
        ["m", *(f"{each} % answered" for each in coverages), "AURC", "E-AURC"],
        rows,
    )


def _ood(results: Sequence[Result], counts: Sequence[int], index: int, other: Result) -> str:
    kinds = list(dict.fromkeys(row["uncertainty"] for row in other["by_members"]))
    rows = []
    for m in counts:
        cells = []
        for kind in kinds:
            found = [
                row
                for result in results
                for row in result["ood"][index]["by_members"]
                if (row["members"], row["uncertainty"]) == (m, kind)
            ]
            values = ([row[key] for row in found] for key in ("auroc", "fpr95"))
            cells.append(", ".join(mean_and_spread(each, 3) for each in values) if found else "")
        rows.append([str(m), *cells])
    return table(
        f"AUROC, FPR95 of {other['samples']:,} images of {other['dataset']}, by uncertainty",
        ["m", *(kind.replace("_", " ") for kind in kinds)],
        rows,
    )


def _shift(shifts: Sequence[Result], counts: Sequence[int]) -> Iterator[str]:
    first = shifts[0]
    severities = first["shift"]["severities"]
    head = ["m", "none", *(f"severity {each}" for each in severities), "mean"]
    what = f"{first['samples']:,} test images, mean of {len(first['shift']['kinds'])} corruptions"

    def of(m: int, key: str) -> Iterator[list[float]]:
        clean = [
            each["by_members"] if key == "top1" else each["trust"]["calibration"] for each in shifts
        ]
        by_severity = (
            [_row(each["shift"]["by_severity"], severity=severity)["by_members"] for each in shifts]
            for severity in severities
        )
        for rows in (clean, *by_severity, [each["shift"]["mean"] for each in shifts]):
            yield [_row(of_run, members=m)[key] for of_run in rows]

    for key, name, digits in (
        ("top1", "Top-1 % under shift", 2),
        ("ece", "ECE under shift, as trained", 3),
        ("ece_calibrated", "ECE under shift, calibrated on images as they are", 3),
    ):
        lines = [[str(m), *(mean_and_spread(each, digits) for each in of(m, key))] for m in counts]
        yield table(f"{name}, {what}", head, lines)

    def of_kind(kind: str, severity: int) -> list[float]:
        rows = [_row(each["shift"]["rows"], kind=kind, severity=severity) for each in shifts]
        return [_row(row["by_members"], members=counts[-1])["top1"] for row in rows]

    yield table(
        f"Top-1 % of m = {counts[-1]} by kind",
        ["corruption", *(f"severity {each}" for each in severities)],
        [
            [kind, *(mean_and_spread(of_kind(kind, severity), 2) for severity in severities)]
            for kind in first["shift"]["kinds"]
        ],
    )


def _row(rows: Sequence[Result], **keys: Any) -> Result:
    """The first row that has some values."""
    return next(row for row in rows if all(row[key] == value for key, value in keys.items()))


def evaluated(run: str, folder: Path, **options: Any) -> Result:
    """The result of `evaluate`, from the folder if it is there; `data_dir` makes no other one."""
    from larq_ensemble.trained import open_trained
    from larq_ensemble.training.evaluation import evaluate

    network = open_trained(run)
    constants = network.config.dataset
    changed: dict[str, Any] = {"data_dir": None}
    changed["limit"] = limit_key(options["limit"], is_own="source" in constants)
    if "ood" in options:  # of data of one's own also what they hold
        shape, data_dir = tuple(constants["input_shape"]), options["data_dir"]
        changed["ood"] = [_asked(spec, shape, data_dir) for spec in options["ood"]]
    asked = json.dumps([network.digest, {**options, **changed}], sort_keys=True)
    path = folder / f"{hashlib.sha256(asked.encode()).hexdigest()[:16]}.json"
    if not path.is_file():
        write_text(path, json.dumps(evaluate(network, **options), indent=2) + "\n")
    return read_json(path, "delete it")


def _asked(spec: str, input_shape: tuple[int, int, int], data_dir: str | None) -> str:
    if spec == "noise":
        return spec
    folder = data_dir if reads_tfds(spec) else None
    fingerprint = identity(spec, input_shape, data_dir=folder)[1]
    return f"{spec} {fingerprint}" if fingerprint else spec


@click.command()
@click.argument("runs", nargs=-1, required=True, type=INPUT, metavar="RUN|NAME...")
@click.option("--ood", type=names, default="noise", show_default=True, help="As for `evaluate`.")
@click.option("--shift", type=names, default="all", show_default=True, help="As for `evaluate`.")
@click.option(
    "--shift-images",
    type=click.IntRange(1),
    metavar="N",
    help=f"Of the test images {LIMITED}.  [default: all]",
)
@click.option(
    "--limit-test", type=click.IntRange(1), metavar="N", help=f"For a try: only {LIMITED}."
)
@data_dir_option
@click.option("--out", type=OutputFolder(), required=True, metavar="DIR", help="For the results.")
@write_option
@json_option
def main(
    runs: tuple[str, ...],
    ood: tuple[str, ...],
    shift: tuple[str, ...],
    shift_images: int | None,
    limit_test: int | None,
    data_dir: str | None,
    out: str,
    page: Path | None,
    json_target: str | None,
) -> None:
    """Tables of calibration, sets, risk-coverage, out-of-distribution and corrupted images."""
    from larq_ensemble.data.corruptions import kinds_named

    kinds = kinds_named(shift)
    with reporting(json_target) as report:
        from larq_ensemble.training.plots import draw_trust, save

        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        limit = shift_images if limit_test is None else min(limit_test, shift_images or limit_test)
        results, shifts = [], []
        for run in runs:
            common = {"data_dir": data_dir, "trust": True}
            results.append(evaluated(run, folder, ood=ood, limit=limit_test, **common))
            shifts.append(evaluated(run, folder, shift=kinds, limit=limit, **common))
            report.line(f"{run}: {results[-1]['top1']:.2f} %")
        text = "\n\n".join(tables(results, shifts))
        for line in text.splitlines():
            report.line(line)
        dataset = results[0]["dataset"]
        stem = (folder if page is None else page.parent) / f"trust_{dataset}"
        save(draw_trust(results[0], shifts[0]), stem)
        report.result = {"results": results, "shifts": shifts}
        if page is not None:
            begin, end = (line.format(dataset) for line in (BEGIN, END))
            made = made_by("benchmarks/trust_report.py")
            write_between(page, begin, end, f"![Trust]({stem.name}.png)\n\n{text}\n\n{made}")


if __name__ == "__main__":
    run_command(main)
