"""The tables and figures of Kim et al. 2022 by name: what each of them shows.

Panels are named by their content, see `docs/reports/reproduction.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from larq_ensemble.registry import Registry


@dataclass(frozen=True)
class Curve:
    """Ensembles of one kind, by M.

    # Arguments
        label: what the legend calls it.
        model, dataset, scheme, sharing: of every ensemble on it.
    """

    label: str
    model: str
    dataset: str
    scheme: str = "fusion"
    sharing: str = "fusion"


@dataclass(frozen=True)
class BlockTable:
    """Bits of one network's weights by block, as the paper counts them.

    # Arguments
        classes: of the linear layers to list.
    """

    title: str
    model: str
    classes: tuple[int, ...]
    note: str


@dataclass(frozen=True)
class StorageFigure:
    """Bits of ensembles' weights by M, as the paper counts them."""

    title: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class AccuracyFigure:
    """Test top-1 of ensembles by M, and of the pretrained single network."""

    title: str
    curves: tuple[Curve, ...]


Figure = BlockTable | StorageFigure | AccuracyFigure

FIGURES: Registry[Figure] = Registry("table or figure")


def _curves(
    model: str, *, schemes: Sequence[str] = (), sharing: Sequence[str] = ()
) -> tuple[Curve, ...]:
    return (
        *(Curve(name, model, "cifar100", scheme=name) for name in schemes),
        *(Curve(name, model, "cifar100", sharing=name) for name in sharing),
    )


_SHARED_OR_NOT = (
    Curve("shared filters (fusion)", "resnet20", "cifar100"),
    Curve("independent filters (none)", "resnet20", "cifar100", sharing="none"),
)

_PAPERS: dict[str, Figure] = {
    "table1": BlockTable(
        "Table 1: weights of XNOR-ResNet-20 by block",
        "resnet20",
        (10, 100),
        "The paper's counting: 32 bits for a real weight, 1 for a binary one, nothing else.",
    ),
    "table2": BlockTable(
        "Table 2: weights of XNOR-ResNet-18 by block",
        "resnet18",
        (10,),
        "The paper's counting, as in Table 1. It prints three digits; its exact values are here.",
    ),
    "fig5a": AccuracyFigure(
        "Fig. 5a: fusion by the number of members, ResNet-20 on CIFAR-10",
        (Curve("fusion", "resnet20", "cifar10"),),
    ),
    "fig5b": AccuracyFigure(
        "Fig. 5b: fusion by the number of members, ResNet-20 on CIFAR-100",
        _curves("resnet20", schemes=["fusion"]),
    ),
    "fig6": AccuracyFigure(
        "Fig. 6: ensemble schemes, ResNet-20 on CIFAR-100",
        _curves("resnet20", schemes=["fusion", "voting", "bagging", "boosting"]),
    ),
    "fig7a": AccuracyFigure(
        "Fig. 7a: shared against independent filters in accuracy, ResNet-20 on CIFAR-100",
        _SHARED_OR_NOT,
    ),
    "fig7b": StorageFigure(
        "Fig. 7b: shared against independent filters in storage, ResNet-20, 100 classes",
        _SHARED_OR_NOT,
    ),
    "fig8": AccuracyFigure(
        "Fig. 8: what members share, fusion ensembles of ResNet-20 on CIFAR-100",
        _curves("resnet20", sharing=["fusion", "all_frozen", "c1", "c2", "c3"]),
    ),
    "fig9": AccuracyFigure(
        "Fig. 9: other networks on CIFAR-100",
        (
            *_curves("resnet18", schemes=["fusion", "voting", "bagging"]),
            *_curves("birealnet18", schemes=["fusion", "voting", "bagging"]),
            *_curves("reactnet10", schemes=["bagging"]),
        ),
    ),
}
for _name, _figure in _PAPERS.items():
    FIGURES.register(_name, _figure)
