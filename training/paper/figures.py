"""The tables and figures of Kim et al. 2022 by their names there.

`paper.json` has what the captions say of each.
"""

from __future__ import annotations

from dataclasses import dataclass

from larq_ensemble.registry import Registry


@dataclass(frozen=True)
class Curve:
    """Ensembles of one kind, by M.

    # Arguments
        label: what the legend calls it.
        model, dataset, scheme, sharing: of every ensemble on it.
        own_data: whether each member iterates over the data by itself, in its own order, with its
            own augmentation. Members are then trained one after the other.
        members: the values of M that the paper has.
    """

    label: str
    model: str
    dataset: str
    scheme: str = "fusion"
    sharing: str = "fusion"
    own_data: bool = False
    members: tuple[int, ...] = (2, 4, 6, 8, 10)


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


def _by_scheme(model: str, dataset: str) -> tuple[Curve, ...]:
    """Fusion, voting and bagging as the paper's library trained them."""
    return (
        Curve("fusion", model, dataset),
        Curve("voting", model, dataset, scheme="voting", own_data=True),
        Curve("bagging", model, dataset, scheme="batch_bagging", own_data=True),
    )


_BY_SHARING = tuple(
    Curve(name, "resnet20", "cifar100", sharing=name)
    for name in ("none", "fusion", "all_frozen", "c1", "c2", "c3")
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
        "Fig. 5a: ensemble schemes, ResNet-20 on CIFAR-100", _by_scheme("resnet20", "cifar100")
    ),
    "fig5b": AccuracyFigure(
        "Fig. 5b: ensemble schemes, ResNet-18 on CIFAR-100", _by_scheme("resnet18", "cifar100")
    ),
    "fig6": AccuracyFigure(
        "Fig. 6: ensemble schemes, ResNet-20 on CIFAR-10", _by_scheme("resnet20", "cifar10")
    ),
    "fig7a": AccuracyFigure(
        "Fig. 7a: accuracy by what members share, ResNet-20 on CIFAR-100",
        _BY_SHARING,
    ),
    "fig7b": StorageFigure(
        "Fig. 7b: storage by what members share, ResNet-20, 100 classes", _BY_SHARING
    ),
    "fig8": AccuracyFigure(
        "Fig. 8: ensemble schemes, Bi-Real-Net-18 on CIFAR-100",
        _by_scheme("birealnet18", "cifar100"),
    ),
    "fig9": AccuracyFigure(
        "Fig. 9: ensemble schemes, ReActNet-10 on CIFAR-100", _by_scheme("reactnet10", "cifar100")
    ),
    # The text leaves boosting out of the figures, because it is so much worse.
    "boosting": AccuracyFigure(
        "Boosting, ResNet-20 on CIFAR-100 (the paper's text and logs, no figure)",
        (
            Curve(
                "boosting",
                "resnet20",
                "cifar100",
                scheme="boosting",
                own_data=True,
                members=(2, 4, 6, 8),
            ),
        ),
    ),
}
for _name, _figure in _PAPERS.items():
    FIGURES.register(_name, _figure)
