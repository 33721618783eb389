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
        name: such as `"cifar100-resnet20"` or `"cifar100-deploynet8-nested8"`: data, network, and
            of an ensemble the scheme and the number of members. Without the last it is a single
            network, a backbone.
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

    @cached_property
    def has_single(self) -> bool:
        """Whether it is a single network, or an ensemble that keeps one as its first member."""
        return self.weights.single() is not None


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
    networks = [Shipped(name) for name in names()]
    if weights in names():
        return _named(model, shipped(weights))
    wanted = {"name": model, "width": 1.0 if width is None else width}
    matching = [
        network
        for network in networks
        if network.card["data"]["name"] == weights
        and {key: network.card["model"][key] for key in wanted} == wanted
        and network.has_single
    ]
    found = [network for network in matching if network.card["members"] == 1] or matching
    if len(found) == 1:
        return found[0]
    of_width = "" if width is None else f" of width {width}"
    if found:
        known = ", ".join(network.name for network in found)
        raise EnsembleError(
            f"`weights` {weights!r} has several networks {model!r}{of_width}: give the name of "
            f"one, {known}."
        )
    known = ", ".join(network.name for network in networks if network.has_single)
    raise EnsembleError(
        f"`weights` {weights!r} has no network {model!r}{of_width}. There are: {known}."
    )


def _named(model: str, network: Shipped) -> Shipped:
    """# Raises
    EnsembleError: if a network is of another architecture, or an ensemble that keeps none.
    """
    if (name := network.card["model"]["name"]) != model:
        raise EnsembleError(
            f"`weights` {network.name!r} is of the network {name!r}, not {model!r}."
        )
    if not network.has_single:
        raise EnsembleError(
            f"`weights` {network.name!r} is an ensemble: `load_ensemble({network.name!r})` makes "
            "it."
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
