"""The common style of all plots, and the plots of the frontier and of the cascade.

A colour means the same scheme or policy in every plot. The colours are Okabe and Ito's (schemes)
and Tol's muted ones (policies), which colour-blind people can tell apart. Markers tell the curves
apart in print.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from larq_ensemble.console.wording import counted
from larq_ensemble.files import replacing
from larq_ensemble.runtime.calibration import Score
from larq_ensemble.training.points import Curve, FrontierPoint, costs_of

BLUE, GREEN, VERMILION, PINK = "#0072B2", "#009E73", "#D55E00", "#CC79A7"
SKY, ORANGE, BLACK, GREY = "#56B4E9", "#E69F00", "#000000", "#6E6E6E"

# Schemes, and policies of fusion ensembles, by name: colour and marker.
_LOOKS = {
    "fusion": (BLUE, "o"),
    "nested_fusion": (SKY, "D"),
    "voting": (GREEN, "s"),
    "hard_voting": (GREEN, "P"),
    "bagging": (VERMILION, "^"),
    "batch_bagging": (VERMILION, "v"),
    "boosting": (PINK, "D"),
    "soft_boosting": (PINK, "d"),
    "snapshot": (ORANGE, "X"),
    "fast_geometric": (ORANGE, "P"),
    "adversarial": (GREEN, "*"),
    "adaboost": (PINK, "*"),
    "stochastic_rounding": (BLACK, "h"),
    "all_frozen": ("#882255", "s"),
    "c1": (ORANGE, "^"),
    "c2": ("#117733", "D"),
    "c3": ("#AA4499", "v"),
    "none": (BLACK, "s"),
}
# Kinds of networks in result files. All differ in both, and each marker stands for one kind.
_KINDS = {
    "shared": (BLUE, "o"),
    "single": (GREY, "*"),
    "wider": ("#332288", "P"),
    "separate": (BLACK, "s"),
    "benn": (VERMILION, "^"),
    "int8": (ORANGE, "D"),
    "int4": ("#AA4499", "v"),
    "float": ("#117733", "X"),
}
_SINGLE_NETWORK = (GREY, "")
_ANY_OTHER = (GREY, "p")

TITLES = {
    "resnet18": "ResNet-18",
    "resnet20": "ResNet-20",
    "birealnet18": "Bi-Real-Net-18",
    "reactnet10": "ReActNet-10",
    "deploynet8": "DeployNet-8",
    "deploynet9": "DeployNet-9",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
}

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "text.parse_math": False,  # a run's or policy's name may hold two $
    "svg.hashsalt": "larq-ensemble",  # the same figure is the same file
    "svg.fonttype": "none",
}
plt.rcParams.update(_STYLE)


def look(scheme: str | None, sharing: str | None) -> tuple[str, str]:
    """Colour and marker of a curve: those of the policy, or with `fusion` those of the scheme."""
    name = sharing if sharing not in ("fusion", None) else scheme or sharing
    return _LOOKS.get(name, _ANY_OTHER) if name else _SINGLE_NETWORK


def new_figure(
    panels: int = 1,
    *,
    rows: int = 1,
    width: float = 6.4,
    sharex: bool = False,
    sharey: bool = True,
) -> tuple[Canvas, list[Axes]]:
    """Axes side by side in the common style, in one row or more; `save` writes and closes them."""
    figure, axes = plt.subplots(
        rows,
        panels,
        figsize=(width if panels == 1 else 4.2 * panels, 4.6 if rows == 1 else 3.9 * rows),
        squeeze=False,
        sharex=sharex,
        sharey=sharey,
    )
    return figure, [*axes.flat]


def save(figure: Canvas, stem: str | os.PathLike[str]) -> list[Path]:
    """Writes `stem`.png and `stem`.svg, each whole or not at all, and closes the figure."""
    paths = [Path(f"{os.fspath(stem)}{suffix}") for suffix in (".png", ".svg")]
    for path in paths:
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150, metadata=metadata)
    plt.close(figure)
    return paths


_COST_LABELS = {
    "bytes": ("storage (kB)", 1e-3),
    "ram_bytes": ("memory of the tensors while running (kB)", 1e-3),
    "macs": ("compute (million MACs per image)", 1e-6),
    "paper_energy_mj": ("energy (mJ), the paper's model:\nm × 1.92 mJ, XNOR-Net on ImageNet", 1.0),
}
#: Where a core is found.
_BOARDS = {
    "cortex-a53": "Raspberry Pi 3",
    "cortex-a72": "Raspberry Pi 4",
    "cortex-a76": "Raspberry Pi 5",
}


def _label_of(cost: str) -> tuple[str, float]:
    """What an axis says, and the factor of its unit."""
    if cost in _COST_LABELS:
        return _COST_LABELS[cost]
    core = cost.partition(".")[2]
    board = f" ({_BOARDS[core]})" if core in _BOARDS else ""
    return f"million instructions per image,\n{core.title()}{board}", 1e-6


def draw_frontier(points: Sequence[FrontierPoint]) -> Canvas:
    """Top-1 of the first m members against each cost; rings and a line mark the Pareto fronts.

    Of many curves only those that reach a front have a look and a label of their own.
    """
    costs = costs_of(points)
    rows = 1 if len(costs) <= 3 else 2
    canvas, panels = new_figure(-(-len(costs) // rows), rows=rows)
    for axes in panels[len(costs) :]:
        axes.set_axis_off()
    styles = _styles(points)
    for axes, cost in zip(panels, costs):
        for curve in dict.fromkeys(point.curve for point in points):
            style = styles.get(curve, _BEHIND)
            _draw_curve(axes, cost, [point for point in points if point.curve == curve], style)
        _draw_front(axes, cost, points)
        _scale_costs(axes, cost, points)
    one = points[0]
    for axes in panels[:: len(panels) // rows]:
        axes.set_ylabel(f"{one.split} top-1 (%)")
    images = "" if one.samples is None else f", {one.samples:,} images"
    canvas.suptitle(
        f"Accuracy and cost, {TITLES.get(one.dataset, one.dataset)}{images}\n"
        "each curve of an ensemble from left to right: m = 1, 2, ... M",
        fontsize=11,
    )
    handles = [Line2D([], [], **style) for style in styles.values()]
    behind = len({point.curve for point in points} - styles.keys())
    if behind:
        handles.append(Line2D([], [], label=f"{counted(behind, 'other')}, on no front", **_BEHIND))
    front = {"linestyle": "-", "linewidth": 0.7, **_RING}
    handles.append(Line2D([], [], label="Pareto front", **front, markersize=10))
    canvas.legend(handles=handles, loc="outside lower center", ncols=3)
    return canvas


_RING: dict[str, Any] = {
    "color": BLACK,
    "marker": "o",
    "markerfacecolor": "none",
    "markeredgewidth": 0.8,
}

#: Past so many curves those that reach no Pareto front look alike.
_MANY_CURVES = 12
_BEHIND: dict[str, Any] = {
    "color": "#BBBBBB",
    "marker": ".",
    "markersize": 5,
    "linestyle": "-",
    "linewidth": 0.8,
    "zorder": 1,
}

#: Of curves of the same colour and marker, in their order.
_LINES = ("-", "--", ":", "-.", (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
_FILLS = ("full", "none", "left", "bottom", "right", "top")


def _styles(points: Sequence[FrontierPoint]) -> dict[Curve, dict[str, Any]]:
    """The style of each curve, with its label; of many curves, of those that reach a front."""
    if len({point.curve for point in points}) > _MANY_CURVES:
        in_front = {point.curve for point in points if point.best_by}
        points = [point for point in points if point.curve in in_front]
    several_models = len({point.model for point in points if not point.name}) > 1
    first_points = {point.curve: point for point in reversed(points)}
    lengths = Counter(point.curve for point in points)
    styles: dict[Curve, dict[str, Any]] = {}
    looks: list[tuple[str, str]] = []
    for curve in dict.fromkeys(point.curve for point in points):
        first = first_points[curve]
        color, marker = _look_of(first)
        has_model = several_models and not first.name
        base, times, width = first.model.partition(" x ")
        name = f"{TITLES.get(base, base)}{times}{width}, " if has_model else ""
        # Curves of the same look, for example of several M, differ by their line styles, and by
        # what of the marker is filled: a curve may be one point.
        same = looks.count((color, marker)) % len(_FILLS)
        styles[curve] = {
            "color": color,
            "marker": marker or "*",
            "markersize": (5 if lengths[curve] > 1 else 7) if marker else 9,
            "linestyle": _LINES[same],
            "fillstyle": _FILLS[same],
            "label": f"{name}{first.label}",
        }
        looks.append((color, marker))
    return styles


def _look_of(point: FrontierPoint) -> tuple[str, str]:
    """Colour and marker of a curve: of a result file those of its kind."""
    if point.kind in _KINDS:
        return _KINDS[point.kind]
    return look(point.scheme or None, (point.sharing or None) if point.scheme else None)


def _draw_curve(
    axes: Axes, cost: str, curve: Sequence[FrontierPoint], style: dict[str, Any]
) -> None:
    scale = _label_of(cost)[1]
    known = sorted(
        ((value * scale, point) for point in curve if (value := point.cost(cost)) is not None),
        key=lambda pair: pair[0],
    )
    x, top1 = [at for at, _ in known], [point.top1 for _, point in known]
    axes.plot(x, top1, **style)
    bars = [
        (at, point.top1, point.top1 - point.top1_low, point.top1_high - point.top1)
        for at, point in known
        if point.top1_low is not None and point.top1_high is not None
    ]
    if bars:
        at, middle, below, above = zip(*bars)
        axes.errorbar(
            at, middle, (below, above), fmt="none", ecolor=style["color"], elinewidth=0.8, alpha=0.6
        )


def _draw_front(axes: Axes, cost: str, points: Sequence[FrontierPoint]) -> None:
    """A thin line along the front, and a ring around each of its points."""
    scale = _label_of(cost)[1]
    front = sorted(
        (value * scale, point.top1)
        for point in points
        if cost in point.best_by.split() and (value := point.cost(cost)) is not None
    )
    size = 12 if len(points) <= 40 else 9
    axes.plot(*zip(*front), **_RING, markersize=size, linewidth=0.7, drawstyle="steps-post")


def _scale_costs(axes: Axes, cost: str, points: Sequence[FrontierPoint]) -> None:
    axes.set_xlabel(_label_of(cost)[0])
    costs = [value for point in points if (value := point.cost(cost)) is not None]
    if max(costs) > 8 * min(costs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    else:
        axes.set_xlim(left=0)
    axes.margins(y=0.08)


def draw_cascade(
    adaptive: Sequence[Score], fixed: Sequence[Score], chosen: Score, *, dataset: str
) -> Canvas:
    """Top-1 against mean members, of cascades and of fixed numbers of members."""
    canvas, (axes,) = new_figure()
    curve = sorted((score.mean_members, score.top1) for score in adaptive)
    steps = [(score.mean_members, score.top1) for score in fixed]
    axes.plot(*zip(*curve), color=BLUE, marker=".", label="adaptive")
    axes.plot(*zip(*steps), "s--", color=GREY, label="the first m members, always")
    at = chosen.mean_members, chosen.top1
    axes.plot(*at, "*", color=VERMILION, markersize=13, label="in the file")
    axes.set_xlabel("members per image, on average")
    axes.set_ylabel("test top-1 (%)")
    axes.legend(loc="lower right")
    title = f"Adaptive prediction, {TITLES.get(dataset, dataset)}, {len(fixed)} members"
    canvas.suptitle(title, fontsize=11)
    return canvas


def draw_trust(result: Mapping[str, Any], shifted: Mapping[str, Any] | None = None) -> Canvas:
    """What `evaluate` found out about trust and shift, for some numbers of members.

    # Arguments
        result: as `larq_ensemble.training.evaluation.evaluate` returns it, with `"trust"`,
            `"shift"` or both.
        shifted: another result to take the shift from, of fewer images; `None`: the same.
    """
    shifted = shifted or result
    trust, shift = result.get("trust"), shifted.get("shift")
    canvas, panels = new_figure(2 * (trust is not None) + 2 * (shift is not None), sharey=False)
    every = [row["members"] for row in result["by_members"]]
    drawn = shown_counts(every)
    shades = plt.get_cmap("viridis_r")(np.linspace(0.15, 1, len(drawn)))
    colors = dict(zip(drawn, shades))
    if trust is not None:
        _draw_risk_coverage(panels[0], trust["selective"], colors)
        _draw_calibration(panels[1], trust["calibration"])
    if shift is not None:
        clean = shifted["by_members"]
        _draw_shift(panels[-2], clean, shift, "top1", colors)
        _draw_shift(panels[-1], clean, shift, "ece", colors)
        panels[-2].set_ylabel("top-1 (%)")
        panels[-1].set_ylabel("ECE")
        if "trust" in shifted:
            fitted = shifted["trust"]["calibration"]
            _draw_shift(panels[-1], fitted, shift, "ece_calibrated", colors, "--")
            panels[-1].set_ylabel("ECE, dashed: calibrated on images as they are")
        for axes in panels[-2:]:
            axes.set_ylim(bottom=0)
    title = f"{TITLES.get(result['dataset'], result['dataset'])}, {result['samples']:,} images"
    fewer = f", {shifted['samples']:,} of them corrupted" if shifted is not result else ""
    canvas.suptitle(title + fewer, fontsize=11)
    handles = [
        Line2D([], [], color=color, label=f"{m} member{'s'[: m > 1]}")
        for m, color in colors.items()
    ]
    canvas.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return canvas


def shown_counts(counts: Sequence[int]) -> list[int]:
    """Of numbers of members those to show if there are many: 1, 2, 4, ... and the last."""
    return [m for m in counts if m & (m - 1) == 0 or m == counts[-1]]


def _draw_risk_coverage(
    axes: Axes, selective: Sequence[dict[str, Any]], colors: Mapping[int, Any]
) -> None:
    for row in selective:
        if row["uncertainty"] == "max_probability" and row["members"] in colors:
            coverages = [int(each) for each in row["risks"]]
            risks = [100 * risk for risk in row["risks"].values()]
            axes.plot(coverages, risks, color=colors[row["members"]])
    axes.set_xlabel("coverage: images with an answer (%)")
    axes.set_ylabel("errors among them (%)")
    axes.set_ylim(bottom=0)


def _draw_calibration(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    members = [row["members"] for row in rows]
    for name, label, color, marker in (
        ("ece", "as trained", VERMILION, "o"),
        ("ece_calibrated", "calibrated", BLUE, "s"),
    ):
        axes.plot(members, [row[name] for row in rows], color=color, marker=marker, label=label)
    by_chance = [row["ece_by_chance"] for row in rows]
    axes.plot(members, by_chance, ":", color=GREY, label="if perfect, by chance")
    axes.set_xlabel("members")
    axes.set_xticks(members)
    axes.set_ylabel("ECE")
    axes.set_ylim(0, 1.2 * max(row[name] for row in rows for name in ("ece", "ece_calibrated")))
    axes.legend()


def _draw_shift(
    axes: Axes,
    clean: Sequence[dict[str, Any]],
    shift: Mapping[str, Any],
    metric: str,
    colors: Mapping[int, Any],
    line: str = "-",
) -> None:
    severities = [0, *shift["severities"]]
    for rows in zip(clean, *(each["by_members"] for each in shift["by_severity"])):
        if (m := rows[0]["members"]) in colors:
            values = [row[metric] for row in rows]
            axes.plot(severities, values, line, color=colors[m], marker=".")
    axes.set_xlabel(f"severity, mean of {counted(len(shift['kinds']), 'corruption')} (0: none)")
    axes.set_xticks(severities)
