"""Which rule should stop an adaptive cascade: margin, probability, entropy or agreement?

For each rule, thresholds for every number of members m are fitted on the validation images of a
file's training, by the search and to the promise of `larq-ensemble calibrate`, and then scored on
the test images. Rules are compared at an equal promise: the expected loss of top-1 against all M
members, or the mean number of members. `--shift N` scores the same thresholds on the first N test
images under each corruption of CIFAR-C (`larq_ensemble.data.corruptions`), by severity.

The logits of all members are kept in `--logits`, so the next call computes none. All else is NumPy.
A page may have a part for each data set, between two lines that name it.

    python benchmarks/cascade.py ensemble.tflite --logits logits --data-dir DATA
    python benchmarks/cascade.py ensemble.tflite --logits logits --data-dir DATA --shift 500 \\
        --out docs/reports/cascade_rules --write docs/reports/cascade.md

# References
    - Hernández-Lobato, Martínez-Muñoz and Suárez 2009, [Statistical instance-based pruning in
      ensembles of independent classifiers](https://doi.org/10.1109/TPAMI.2008.204): agreement.
    - Inoue 2019, [Adaptive ensemble prediction for deep neural networks based on confidence
      level](https://arxiv.org/abs/1702.08259): the spread of the members.
    - Teerapittayanon et al. 2016, [BranchyNet](https://arxiv.org/abs/1709.01686): entropy.
    - Wang et al. 2022, [Wisdom of committees](https://arxiv.org/abs/2012.01988): probability.
    - Zhou et al. 2020, [BERT loses patience](https://arxiv.org/abs/2006.04152): patience.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from page import made_by, write_between, write_option

from larq_ensemble.cli import run_command
from larq_ensemble.console.markdown import markdown_table
from larq_ensemble.console.options import (
    POSITIVE,
    TFLITE,
    OutputFile,
    OutputFolder,
    data_dir_option,
    seed_option,
)
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from larq_ensemble.files import file_digest, replacing
from larq_ensemble.progress import tracked
from larq_ensemble.runtime import EnsembleInterpreter, metrics
from larq_ensemble.runtime.calibration import (
    Fold,
    OperatingPoint,
    choose,
    expected_losses,
    fit_folds,
    fit_temperature,
    fit_thresholds,
    held_out_limit,
    members_run,
)
from larq_ensemble.runtime.cascade import Cascade, calibrated_prediction, log_margin
from larq_ensemble.runtime.combination import combine
from larq_ensemble.runtime.commands.options import backend_option
from larq_ensemble.training.subject import Subject, subject_of

#: The generated part of a page is between these two lines, which have the data set.
BEGIN, END = "<!-- rules on {}: by benchmarks/cascade.py -->", "<!-- end of rules on {} -->"
#: Of all members: the mean number of members of the last column.
SHARE = 0.35
STEPS = (1, 2, 4, 8)
_PRIOR = 4  # members whose spread is that of all images
_TINY = np.finfo(np.float32).tiny

#: Logits `[m, n, classes]`, their calibrated prediction `[n, classes]`, and the spread of members
#: -> how sure the prediction is, at least 0, `[n]`.
Confidence = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class Rule:
    """A stopping rule.

    # Arguments
        confidence: see `Confidence`.
        needs: what a device computes for it after each member, beside the sum of the logits.
    """

    confidence: Confidence
    needs: str


def margin(logits: np.ndarray, prediction: np.ndarray, spread: float) -> np.ndarray:
    """`ln p_first - ln p_second`."""
    return log_margin(prediction)


def probability(logits: np.ndarray, prediction: np.ndarray, spread: float) -> np.ndarray:
    """`p_first`, as `-ln(1 - p_first)`, which stops in the same order."""
    others = np.sort(prediction.astype(np.float64), axis=-1)[:, :-1].sum(axis=-1)
    return -np.log(np.clip(others, _TINY, 1))


def probability_margin(logits: np.ndarray, prediction: np.ndarray, spread: float) -> np.ndarray:
    """`p_first - p_second`, as `-ln(1 - p_first + p_second)`."""
    ordered = np.sort(prediction.astype(np.float64), axis=-1)
    return -np.log(np.clip(ordered[:, :-1].sum(axis=-1) + ordered[:, -2], _TINY, 1))


def entropy(logits: np.ndarray, prediction: np.ndarray, spread: float) -> np.ndarray:
    """`H = -sum_k p_k ln p_k`, as `-ln(H / ln classes)`."""
    nats = metrics.entropy(prediction.astype(np.float64))
    return -np.log(np.clip(nats / np.log(prediction.shape[-1]), _TINY, 1))


def agreement(logits: np.ndarray, prediction: np.ndarray, spread: float) -> np.ndarray:
    """The share of members that vote for the predicted class."""
    return (logits.argmax(axis=-1) == prediction.argmax(axis=-1)).mean(axis=0)


def agreement_then_margin(logits: np.ndarray, prediction: np.ndarray, spread: float) -> np.ndarray:
    """The number of these members; of equal ones the log margin d says, as `d / (1 + d)`."""
    d = log_margin(prediction)
    return len(logits) * agreement(logits, prediction, spread) + d / (1 + d)


def patience(logits: np.ndarray, prediction: np.ndarray, spread: float) -> np.ndarray:
    """For how many members the class of the mean has been the predicted one, up to now."""
    counts = np.arange(1, len(logits) + 1)[:, np.newaxis, np.newaxis]
    leading = (np.cumsum(logits, axis=0) / counts).argmax(axis=-1)
    same = leading == prediction.argmax(axis=-1)
    return np.logical_and.accumulate(same[::-1]).sum(axis=0)


def sequential_test(logits: np.ndarray, prediction: np.ndarray, spread: float) -> np.ndarray:
    """`t = mean / sd` of the members' margins between the two likeliest classes.

    sd^2 = (4 spread^2 + sum_i (d_i - mean)^2) / (4 + m - 1), because one member has no spread.
    """
    second, first = np.argpartition(prediction, -2, axis=-1)[:, -2:].T
    image = np.arange(len(prediction))
    differences = logits[:, image, first] - logits[:, image, second]
    mean = differences.mean(axis=0)
    squares = _PRIOR * spread**2 + ((differences - mean) ** 2).sum(axis=0)
    return np.maximum(0, mean / np.sqrt(squares / (_PRIOR + len(logits) - 1)))


RULES = {
    "log margin": Rule(margin, "the two largest sums"),
    "sequential test": Rule(sequential_test, "the two largest sums; every member's logits of both"),
    "probability margin": Rule(probability_margin, "a softmax, its two largest values"),
    "probability": Rule(probability, "a softmax, its largest value"),
    "entropy": Rule(entropy, "a softmax and a logarithm of each class"),
    "agreement": Rule(agreement, "the largest logit of each member"),
    "agreement, then margin": Rule(
        agreement_then_margin, "the largest logit of each member, the two largest sums"
    ),
    "patience": Rule(patience, "the largest sum"),
}


class Logits:
    """The logits of all members of a file, computed once and kept in a folder.

    # Arguments
        file: the `.tflite` file.
        folder: for the arrays, in a folder of the file's own.
        backend: what runs the file; `None`: as `EnsembleInterpreter`.
        data_dir: of TensorFlow Datasets.
        seed: of the corruptions.
    """

    def __init__(
        self, file: str, folder: str, backend: str | None, data_dir: str | None, seed: int
    ) -> None:
        self.ensemble = EnsembleInterpreter(file, backend=backend)
        self._data_dir, self._seed = data_dir, seed
        self._folder = Path(folder, f"{Path(file).stem}-{file_digest(file)[:12]}-{seed}")

    @cached_property
    def _subject(self) -> Subject:
        return subject_of(self.ensemble, data_dir=self._data_dir)

    def labels(self, split: str) -> np.ndarray:
        """Class indices `[n]` of the validation or test images."""
        return self._kept(f"{split}-labels", lambda: np.asarray(self._subject.split(split).labels))

    def images(self, split: str) -> np.ndarray:
        """uint8 `[n, height, width, channels]` of the validation or test images."""
        return np.asarray(self._subject.split(split).images)

    def of(self, split: str) -> np.ndarray:
        """Logits `[M, n, classes]` of the validation or test images."""
        return self._kept(
            split,
            lambda: self.ensemble.predict_logits(self.images(split)),
        )

    def under(self, kind: str, severity: int, images: int) -> np.ndarray:
        """Logits of some test images, corrupted."""

        def computed() -> np.ndarray:
            some = np.asarray(self._subject.split("test", images).images)
            return self.ensemble.predict_logits(corrupt(some, kind, severity, self._seed))

        return self._kept(f"{kind}-{severity}-{images}", computed)

    def _kept(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        path = self._folder / f"{name}.npy"
        if not path.exists():
            array = compute()
            with replacing(path) as temporary:
                np.save(temporary, array)
        return np.load(path)


class Scored(NamedTuple):
    """What thresholds do on labelled images.

    # Arguments
        members: that run for an image, on average.
        lost: points of top-1 against all members.
        error: the standard error of `lost`, for the draw of the images.
        expected: the loss that the calibrated prediction of all members expects, in points.
    """

    members: float
    lost: float
    error: float
    expected: float


class Images(NamedTuple):
    """Labelled images as a cascade sees them.

    # Arguments
        right: whether the first m members are, bool `[M, n]`.
        losses: of `expected_losses`, `[M, n]`.
        confidences: of each rule after m members, `[M - 1, n]`.
        versions: of each image, first all in one version, then all in the next.
    """

    right: np.ndarray
    losses: np.ndarray
    confidences: dict[str, np.ndarray]
    versions: int = 1

    def score(self, rule: str, thresholds: Sequence[float | None]) -> Scored:
        """What a rule does with thresholds."""
        members = members_run(thresholds, self.confidences[rule])
        last = members[np.newaxis] - 1
        lost = self.right[-1].astype(int) - np.take_along_axis(self.right, last, axis=0)[0]
        expected = np.take_along_axis(self.losses, last, axis=0).mean()
        # Versions of one image are not independent.
        of_image = lost.reshape(self.versions, -1).mean(axis=0)
        points = (lost.mean(), of_image.std() / np.sqrt(len(of_image)), expected)
        return Scored(float(members.mean()), *(100 * float(each) for each in points))

    def top1(self) -> np.ndarray:
        """Of the first m members in percent, `[M]`."""
        return 100 * self.right.mean(axis=1)


class Calibrated:
    """An ensemble with temperatures that were fitted on some images.

    # Arguments
        logits: of these images, `[M, n, classes]`.
        labels: `[n]`.
        scheme, weights: how members are combined.
    """

    def __init__(
        self,
        logits: np.ndarray,
        labels: np.ndarray,
        scheme: str,
        weights: Sequence[float] | None = None,
    ) -> None:
        self._scheme, self._weights = scheme, weights
        self._temperatures = [
            fit_temperature(combine(logits[:m], scheme, weights), labels, scheme)
            for m in range(1, len(logits) + 1)
        ]
        second, first = np.sort(logits, axis=-1)[..., -2:].T
        self._spread = float((first - second).std(axis=-1, ddof=1).mean())

    def images(self, logits: np.ndarray, labels: np.ndarray, versions: int = 1) -> Images:
        """These or other images."""
        seen = range(1, len(logits) + 1)
        predictions = np.stack(
            [
                calibrated_prediction(logits[:m], self._scheme, self._weights, self._temperatures)
                for m in seen
            ]
        )
        confidences = {
            name: np.stack(
                [rule.confidence(logits[:m], predictions[m - 1], self._spread) for m in seen[:-1]]
            )
            for name, rule in RULES.items()
        }
        return Images(
            predictions.argmax(axis=-1) == labels,
            expected_losses(predictions),
            confidences,
            versions,
        )


class Limit(NamedTuple):
    """What thresholds are to keep: points of top-1, or else a share of the members.

    # Arguments
        lost: on images that are not fitted on, at most, as expected.
        share: of all members (0..1) that run on average, at most.
    """

    lost: float | None = None
    share: float | None = None

    def __str__(self) -> str:
        if self.share is not None:
            return f"{100 * self.share:g} % of members"
        return f"{self.lost:g} points"


class Way(NamedTuple):
    """A rule with fitted thresholds.

    # Arguments
        rule: a key of `RULES`.
        frontier: of the thresholds.
        folds: of their cross-validation; empty: not needed.
    """

    rule: str
    frontier: list[OperatingPoint]
    folds: list[Fold]

    def thresholds(self, limit: Limit) -> tuple[float | None, ...]:
        """Those that keep a limit."""
        members = len(self.frontier[0].cascade.thresholds) + 1
        if limit.share is not None:
            point = choose(self.frontier, 0, max(1, limit.share * members))
        else:
            point = choose(self.frontier, held_out_limit(self.folds, limit.lost or 0), None)
        return point.cascade.thresholds


def fitted(images: Images) -> dict[str, Way]:
    """Every rule with the best thresholds, and the first with fewer of them."""
    ways = {
        rule: Way(rule, fit_thresholds(each, images.losses), fit_folds(each, images.losses))
        for rule, each in tracked(list(images.confidences.items()), "fitting", unit="rule")
    }
    rule = next(iter(RULES))
    confidences, losses = images.confidences[rule], images.losses.copy()
    others = [m - 1 for m in range(1, len(losses)) if m not in STEPS]
    losses[others] = 1  # so no image stops there
    ways[f"{rule}, after {', '.join(map(str, STEPS))} only"] = Way(
        rule, fit_thresholds(confidences, losses), fit_folds(confidences, losses)
    )
    ways[f"{rule}, one threshold"] = Way(rule, with_one_threshold(images, rule), [])
    return ways


def with_one_threshold(images: Images, rule: str) -> list[OperatingPoint]:
    """The frontier of cascades whose threshold is the same for every m."""
    confidences = images.confidences[rule]
    levels = np.quantile(confidences, np.linspace(0, 1, 201)).tolist()
    all_of_them = [(level,) * len(confidences) for level in levels] + [(None,) * len(confidences)]
    points = []
    for thresholds in all_of_them:
        scored = images.score(rule, thresholds)
        points.append(OperatingPoint(Cascade(thresholds), scored.members, scored.expected))
    return points


def rows(ways: Mapping[str, Way], test: Images, limits: Sequence[Limit]) -> Iterator[list[str]]:
    """The table: for each limit the members and the points of a way on test images."""
    for name, way in ways.items():
        cells = []
        for limit in limits:
            scored = test.score(way.rule, way.thresholds(limit))
            share = scored.members / len(test.right)
            cells += [f"{scored.members:.2f} ({share:.0%})", points(scored)]
        yield [name, *cells, RULES[name].needs if name in RULES else ""]


def points(scored: Scored) -> str:
    return f"{scored.lost:.2f} ± {scored.error:.2f}"


def shift_rows(
    ways: Mapping[str, Way], by_severity: Mapping[int, Images], limit: Limit
) -> Iterator[list[str]]:
    """The table under shift: the members and the points of a way, by severity."""
    top1 = [f"{images.top1()[-1]:.2f} %" for images in by_severity.values()]
    yield ["top-1 of all members", *top1]
    for name, way in ways.items():
        found = [images.score(way.rule, way.thresholds(limit)) for images in by_severity.values()]
        yield [name, *(f"{each.members:.2f}: {points(each)}" for each in found)]


def draw(
    ways: Mapping[str, Way],
    test: Images,
    by_severity: Mapping[int, Images],
    limit: Limit,
    title: str,
    stem: str,
) -> None:
    """Accuracy against members for each rule, and members against severity."""
    from larq_ensemble.training import plots

    colors = (plots.BLUE, plots.ORANGE, plots.SKY, plots.VERMILION, plots.PINK, plots.GREEN)
    looks = [*((color, "-") for color in colors), (plots.GREEN, "--"), (plots.BLACK, "-")]
    figure, panels = plots.new_figure(2 if by_severity else 1, sharey=False)
    top1, counts = test.top1(), range(1, len(test.right) + 1)
    panels[0].plot(counts, top1, "s:", color=plots.GREY, label="the first m members, always")
    panels[0].set(xlabel="members per image, on average", ylabel="test top-1 (%)")
    for name, (color, line) in zip(RULES, looks):
        way = ways[name]
        curve = [test.score(way.rule, point.cascade.thresholds) for point in way.frontier]
        x, y = zip(*sorted((each.members, top1[-1] - each.lost) for each in curve))
        panels[0].plot(x, y, color=color, linestyle=line, label=name)
        for axes in panels[1:]:
            members = [
                images.score(way.rule, way.thresholds(limit)).members
                for images in by_severity.values()
            ]
            axes.plot(list(by_severity), members, color=color, linestyle=line, marker="o")
    panels[0].legend(fontsize=8, loc="lower right")
    for axes in panels[1:]:
        axes.set(
            xlabel="severity of the corruptions (0: none)",
            ylabel=f"members per image, on average ({limit})",
        )
    figure.suptitle(title, fontsize=9)
    plots.save(figure, stem)


@click.command()
@click.argument("tflite", type=TFLITE, metavar="F.tflite|NAME")
@click.option("--logits", "folder", type=OutputFolder(), metavar="DIR", help="Keeps the logits.")
@click.option(
    "--accuracy-loss",
    type=POSITIVE,
    default=0.1,
    show_default=True,
    metavar="POINTS",
    help="Expected loss of top-1 against all members, at most.",
)
@click.option(
    "--shift", type=click.IntRange(1), metavar="N", help="Also the first N test images, corrupted."
)
@click.option("--out", type=OutputFile(".png", ".svg"), metavar="STEM", help="The figure.")
@write_option
@data_dir_option
@backend_option
@seed_option
@json_option
def main(
    tflite: str,
    folder: str | None,
    accuracy_loss: float,
    shift: int | None,
    out: str | None,
    page: Path | None,
    data_dir: str | None,
    backend: str | None,
    seed: int,
    json_target: str | None,
) -> None:
    """Compare the rules by which an adaptive cascade of F.tflite may stop."""
    limits = [Limit(accuracy_loss), Limit(5 * accuracy_loss), Limit(share=SHARE)]
    with reporting(json_target) as report, contextlib.ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        logits = Logits(tflite, folder, backend, data_dir, seed)
        metadata = logits.ensemble.metadata
        validation, labels = logits.of("validation"), logits.labels("validation")
        calibrated = Calibrated(validation, labels, metadata.scheme, metadata.weights)
        ways = fitted(calibrated.images(validation, labels))
        test = calibrated.images(logits.of("test"), logits.labels("test"))
        columns = [
            "rule",
            *(f"{limit}: {what}" for limit in limits for what in ("members", "lost")),
        ]
        columns.append("a device computes")
        table = list(rows(ways, test, limits))
        title = (
            f"{Path(tflite).stem}, {len(test.right)} members by {metadata.scheme}: "
            f"{len(labels):,} validation and "
            f"{test.right.shape[1]:,} test images of {metadata.dataset}"
        )
        report.table(title, columns, table)
        text = [f"{title}. Top-1 of the first m members: {', '.join(map(_two, test.top1()))} %."]
        text.append(markdown_table(columns, table))
        rule = next(iter(RULES))
        thresholds = ways[rule].thresholds(limits[0])
        shown = ", ".join("none" if each is None else _two(each) for each in thresholds)
        text.append(f"Thresholds of the {rule} for {limits[0]}, for m = 1, 2, ...: {shown}.")
        by_severity = {} if shift is None else shifted(calibrated, logits, shift)
        if by_severity:
            count = by_severity[0].right.shape[1]
            columns = ["members: points lost", "no corruption", *map(str, SEVERITIES)]
            table = list(shift_rows(ways, by_severity, limits[0]))
            what = (
                f"The thresholds for {limits[0]} on {count:,} test images under each of "
                f"{len([*CORRUPTIONS])} corruptions, by severity"
            )
            report.table(what, columns, table)
            text += [f"{what}:", markdown_table(columns, table)]
        report.result = result(ways, test, by_severity, limits)
        if out is not None:
            draw(ways, test, by_severity, limits[0], title, out)
        if page is not None:
            text.append(made_by("benchmarks/cascade.py"))
            begin, end = (line.format(metadata.dataset) for line in (BEGIN, END))
            write_between(page, begin, end, "\n\n".join(text))


def _two(value: float) -> str:
    return f"{value:.2f}"


def shifted(calibrated: Calibrated, logits: Logits, count: int) -> dict[int, Images]:
    """The first test images under all kinds of corruption, by severity; 0: as they are."""
    labels = logits.labels("test")[:count]
    count = len(labels)
    found = {0: calibrated.images(logits.of("test")[:, :count], labels)}
    todo = [(severity, kind) for severity in SEVERITIES for kind in CORRUPTIONS]
    of: dict[int, list[np.ndarray]] = {severity: [] for severity in SEVERITIES}
    for severity, kind in tracked(todo, "corrupted images", unit="corruption"):
        of[severity].append(logits.under(kind, severity, count))
    for severity, each in of.items():
        together = np.concatenate(each, axis=1)
        found[severity] = calibrated.images(together, np.tile(labels, len(each)), len(each))
    return found


def result(
    ways: Mapping[str, Way],
    test: Images,
    by_severity: Mapping[int, Images],
    limits: Sequence[Limit],
) -> dict[str, Any]:
    """All numbers for JSON."""

    def scores(images: Images, way: Way) -> dict[str, Any]:
        return {
            str(limit): images.score(way.rule, way.thresholds(limit))._asdict() for limit in limits
        }

    return {
        "top1_by_members": test.top1().tolist(),
        "rules": {
            name: {
                "rule": way.rule,
                "thresholds": {str(limit): way.thresholds(limit) for limit in limits},
                "test": scores(test, way),
                "by_severity": {str(at): scores(images, way) for at, images in by_severity.items()},
                "frontier": [
                    test.score(way.rule, point.cascade.thresholds)._asdict()
                    for point in way.frontier
                ],
            }
            for name, way in ways.items()
        },
    }


if __name__ == "__main__":
    run_command(main)
