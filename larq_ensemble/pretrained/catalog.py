"""Which networks there are, and their files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.files import read_json

if TYPE_CHECKING:
    from larq_ensemble.pretrained.weights import StoredWeights

FOLDER = Path(__file__).with_name("networks")


@dataclass(frozen=True)
class Shipped:
    """A network of the package.

    # Arguments
        name: such as `"cifar100-resnet20"` or `"cifar100-deploynet8-w0.75-nested4"`: data,
            network, its width if it isn't 1, and of an ensemble the scheme and the number of
            members. Without the last it is a single network, a backbone.
        folder: the folder of its files.
    """

    name: str
    folder: Path = FOLDER

    @property
    def card_path(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def weights_path(self) -> Path:
        """The weights, see `larq_ensemble.pretrained.weights`."""
        return self.folder / f"{self.name}.npz"

    @property
    def tflite(self) -> Path:
        """The `.tflite` file, with its calibration."""
        return self.folder / f"{self.name}.tflite"

    @cached_property
    def card(self) -> dict[str, Any]:
        """The model card, see `larq_ensemble.pretrained.cards`.

        # Raises
            EnsembleError: if it is missing or damaged.
        """
        card = read_json(self.card_path, _WAY_OUT)
        if missing := [entry for entry in _ENTRIES if entry not in card]:
            raise EnsembleError(
                f"The card {str(self.card_path)!r} is damaged, it lacks {missing[0]!r}: {_WAY_OUT}."
            )
        return card

    @cached_property
    def weights(self) -> StoredWeights:
        """The weights, and the configuration of the run that trained them."""
        from larq_ensemble.pretrained.weights import read_weights

        return read_weights(self.weights_path)

    @property
    def has_single(self) -> bool:
        """Whether it is a single network, or an ensemble that keeps one as its first member."""
        from larq_ensemble.pretrained.cards import has_single

        return has_single(self.card)


_WAY_OUT = "install larq-ensemble again"
#: Of every card, see `larq_ensemble.pretrained.cards`.
_ENTRIES = (
    *("name", "kind", "members", "model", "data", "training", "accuracy", "files"),
    *("instructions", "agreement", "samples", "commands", "date", "commit", "licence"),
)


def names() -> list[str]:
    """The names of all networks, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def or_a_name() -> str:
    """That a name can be given, too, for the end of a message."""
    return f"or the name of a network that comes with the package: {', '.join(names())}"


def shipped(name: str) -> Shipped:
    """A network by its name.

    # Raises
        UnknownNameError: for any other name.
    """
    if name not in names():
        raise UnknownNameError("pretrained network", name, names())
    return Shipped(name)


def backbone_of(model: str, weights: str, width: float | None = None) -> Shipped:
    """The single network of an architecture that was trained on some data.

    It comes by itself or in an ensemble that keeps it as its first member. `StoredWeights.single`
    has its weights.

    # Arguments
        model: the architecture.
        weights: the data, or the name of the network or the ensemble.
        width: of the network for the data; `None`: 1.

    # Raises
        EnsembleError: if there is none, or more than one, with those that there are.
    """
    if weights in names():
        return _named(model, shipped(weights))
    width = 1.0 if width is None else width
    networks = [network for network in map(Shipped, names()) if network.has_single]
    of_data = [
        network
        for network in networks
        if (network.card["data"]["name"], network.card["model"]["name"]) == (weights, model)
    ]
    matching = [network for network in of_data if network.card["model"]["width"] == width]
    candidates = [network for network in matching if network.card["members"] == 1] or matching
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        known = ", ".join(network.name for network in candidates)
        raise EnsembleError(
            f"`weights` {weights!r} has several networks {model!r} of width {width!r}: give the "
            f"name of one, {known}."
        )
    if of_data:
        widths = sorted({network.card["model"]["width"] for network in of_data})
        raise EnsembleError(
            f"`weights` {weights!r} has no network {model!r} of `width` {width!r}: give "
            f"{' or '.join(f'{each:g}' for each in widths)}."
        )
    known = ", ".join(f"{each.name} (of {each.card['model']['name']!r})" for each in networks)
    raise EnsembleError(
        f"`weights` {weights!r} has no network {model!r}. There are, for their own architecture: "
        f"{known}."
    )


def _named(model: str, network: Shipped) -> Shipped:
    """# Raises
    EnsembleError: if a network is of another architecture, or an ensemble that keeps none.
    """
    if (name := network.card["model"]["name"]) != model:
        raise EnsembleError(
            f"`weights` {network.name!r} is of the network {name!r}, not {model!r}: "
            f"`build_model({name!r}, weights={network.name!r})` makes it."
        )
    if not network.has_single:
        raise EnsembleError(
            f"`weights` {network.name!r} is an ensemble that doesn't keep its single network: "
            f"`load_ensemble({network.name!r})` makes it."
        )
    return network


def found(path: str | os.PathLike[str]) -> Shipped | None:
    """The network, if `path` is the name of one, and no file or folder is there.

    # Arguments
        path: what a user gives where a path or a name is taken.
    """
    name = os.fspath(path)
    return Shipped(name) if name in names() and not os.path.lexists(path) else None


def tflite_path(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The `.tflite` file of a network's name; any other path as it is."""
    network = found(path)
    return path if network is None else network.tflite
