"""Plots of the paper's tables and figures: ours solid, the paper's dashed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from larq_ensemble.training.paper.figures import BlockTable, Figure, StorageFigure
from larq_ensemble.training.paper.points import OURS, PAPER, SINGLE, Point
from larq_ensemble.training.plots import BLACK, BLUE, ORANGE, TITLES, look, new_figure


def draw(figure: Figure, points: Sequence[Point]) -> Canvas:
    """Draws a table or figure of the paper, ours solid and the paper's dashed."""
    if isinstance(figure, BlockTable):
        return _draw_blocks(figure, points)
    models = list(dict.fromkeys(point.model for point in points))
    canvas, panels = new_figure(len(models), sharex=True)
    panels[0].set_xticks(sorted({p.members or 1 for p in points if p.label != SINGLE}))
    in_bits = isinstance(figure, StorageFigure)
    scale = 1e-6 if in_bits else 1.0
    handles: dict[str, Line2D] = {}
    for axes, model in zip(panels, models):
        own = [point for point in points if point.model == model]
        for origin in (OURS, PAPER):
            for label in dict.fromkeys(point.label for point in own):
                curve = [p for p in own if (p.origin, p.label) == (origin, label)]
                if curve:
                    handle = _draw_curve(axes, curve, scale)
                    handles.setdefault(label, handle)
        axes.set_xlabel("members M")
        if len(models) > 1:
            axes.set_title(TITLES.get(model, model))
    if in_bits:
        panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("weights (Mbit, the paper's counting)" if in_bits else "test top-1 (%)")
    _titles(canvas, figure.title, points)
    _legend(canvas, handles, {point.origin for point in points})
    return canvas


def _draw_curve(axes: Axes, curve: Sequence[Point], scale: float) -> Line2D:
    first = curve[0]
    color, marker = look(first.scheme, first.sharing)
    dashed = first.origin == PAPER
    style: dict[str, Any] = {"color": color, "linestyle": "--" if dashed else "-"}
    if first.label == SINGLE:
        axes.axhline(first.value * scale, **style, linewidth=1.2)
    else:
        by_members = sorted((point.members or 1, point.value * scale) for point in curve)
        axes.plot(
            *zip(*by_members),
            **style,
            marker=marker,
            markersize=8 if dashed else 5,
            markerfacecolor="none" if dashed else color,
        )
    return Line2D([], [], color=color, marker=marker, markersize=5, label=first.label)


def _draw_blocks(table: BlockTable, points: Sequence[Point]) -> Canvas:
    canvas, (axes,) = new_figure(width=7.4)
    labels = list(dict.fromkeys(point.label for point in points))
    for origin, offset, color in ((OURS, -0.2, BLUE), (PAPER, 0.2, ORANGE)):
        values = {point.label: point.value for point in points if point.origin == origin}
        bars = axes.barh(
            [labels.index(label) + offset for label in values],
            list(values.values()),
            height=0.36,
            color=color,
            label=origin,
        )
        axes.bar_label(bars, [f"{value:,}" for value in values.values()], padding=3, fontsize=8)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("weights (bits, the paper's counting)")
    canvas.suptitle(table.title, fontsize=11)
    canvas.legend(loc="outside lower center", ncols=2)
    return canvas


def _titles(canvas: Canvas, title: str, points: Sequence[Point]) -> None:
    """The title, and below it how ours were trained."""
    trained = [point for point in points if point.origin == OURS and point.epochs is not None]
    if trained:
        one = trained[0]
        schedules = dict.fromkeys(f"{p.pretrain_epochs} + {p.epochs} epochs" for p in trained)
        how = [*schedules, f"seed {one.seed}"]
        how += [f"width {one.width:g}"] if one.width != 1 else []
        how += [f"{one.limit_train:,} training images"] if one.limit_train else []
        how += [f"data set {one.dataset}"] if one.dataset not in TITLES else []
        title += f"\nours: {', '.join(how)}"
    canvas.suptitle(title, fontsize=11)


def _legend(canvas: Canvas, curves: dict[str, Line2D], origins: set[str]) -> None:
    """Below the axes, so that it hides nothing: what the colours are, and whose the lines."""
    handles = list(curves.values())
    if PAPER in origins:
        handles += [
            Line2D([], [], color=BLACK, marker="o", markersize=5, label="ours"),
            Line2D(
                [], [], color=BLACK, marker="o", markersize=8, markerfacecolor="none",
                linestyle="--", label="Kim et al. 2022",
            ),
        ]  # fmt: skip
    canvas.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))
