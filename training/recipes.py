"""Training recipes as data: the paper's, short ones for a CPU, and one for few images."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

from larq_ensemble.errors import EnsembleError, UnknownNameError, check_whole
from larq_ensemble.files import write_text
from larq_ensemble.network.architectures import MODELS
from larq_ensemble.registry import Registry

DECAYS = ("step", "epoch")
#: Values that recipes did not have at first. No option of a command sets them.
LATER = ("epsilon", "decay", "drop_remainder")
#: Values that are not recorded if they are the default, because older runs lack them.
_OMITTED = (*LATER, "label_smoothing", "warmup_epochs", "weight_decay")


@dataclass(frozen=True)
class Recipe:
    """Adam with a linear decay of the learning rate to `end_lr` ("poly" with power 1).

    At step t of T: lr * (1 - t / T) + end_lr * t / T. With `decay="epoch"` t and T count epochs:
    the rate is the same for all steps of an epoch.

    # Arguments
        epochs: passes over the training split; 0 leaves the network untrained.
        batch_size: images per step.
        lr, end_lr: learning rate at the first and after the last step.
        dropout: rate before the linear layer; `None`: as the network has it.
        jitter: relative size of the noise on each member's initial batch norm; `None`: the
            scheme's default.
        beta_1, beta_2, epsilon: Adam's decay rates, and what it adds to the denominator.
        decay: `"step"` or `"epoch"`: how often the rate falls.
        drop_remainder: drop the last batch of an epoch if it is incomplete.
        label_smoothing: s in the loss: labels count 1 - s, and all K classes s / K each (Szegedy et
            al. 2016).
        warmup_epochs: in so many epochs, which may be a fraction, the rate rises linearly to `lr`
            (Goyal et al. 2017). It falls in the others.
        weight_decay: lambda of AdamW, for real-valued filters and matrices, see
            `larq_ensemble.training.optimizer` (Loshchilov and Hutter 2019).
        source: where the values come from.

    # Raises
        EnsembleError: for a value out of range.
    """

    epochs: int
    batch_size: int
    lr: float
    dropout: float | None
    source: str
    end_lr: float = 0.0
    jitter: float | None = None
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    decay: str = "step"
    drop_remainder: bool = True
    label_smoothing: float = 0.0
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        bounds = {
            "epochs": (0, None),
            "batch_size": (1, None),
            "lr": (0, None),
            "end_lr": (0, None),
            "dropout": (0, 1),
            "jitter": (0, None),
            "beta_1": (0, 1),
            "beta_2": (0, 1),
            "epsilon": (0, None),
            "label_smoothing": (0, 1),
            "warmup_epochs": (0, self.epochs or None),
            "weight_decay": (0, None),
        }
        if self.decay not in DECAYS:
            raise UnknownNameError("decay", self.decay, DECAYS)
        for name, (least, below) in bounds.items():
            value = getattr(self, name)
            if value is None:
                continue
            if not value >= least or (below is not None and not value < below):
                limit = "" if below is None else f" and below {below}"
                raise EnsembleError(f"`{name}` must be at least {least}{limit}, got {value}.")

    def override(self, **values: Any) -> Recipe:
        """A copy with those of the values that are not `None`; its `source` says so."""
        given = {name: value for name, value in values.items() if value is not None}
        if not given:
            return self
        source = f"{self.source}{_OVERRIDDEN}{', '.join(sorted(given))}"
        return replace(self, **given, source=source)

    def to_json(self) -> dict[str, Any]:
        """The values; of `_OMITTED` only those that are not the default.

        So a recipe of before has the same JSON as then, and its runs can be resumed.
        """
        defaults = {field.name: field.default for field in fields(self)}
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in _OMITTED or value != defaults[name]
        }

    def as_begun(self, begun: dict[str, Any]) -> Recipe:
        """This recipe with those values of `LATER` with which a run began, by its configuration.

        Also with its epochs, if the recipe `small` counts both: earlier versions counted the
        training images otherwise.
        """
        before = Recipe.from_json(begun)
        given = self.source.partition(_OVERRIDDEN)[2].split(", ")
        is_counted = self.source.startswith(_SMALL) and "epochs" not in given
        epochs = before.epochs if is_counted and before.source == self.source else self.epochs
        return replace(self, epochs=epochs, **{name: getattr(before, name) for name in LATER})

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Recipe:
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


@dataclass(frozen=True)
class Recipes:
    """Recipes for a backbone and for its ensembles.

    # Arguments
        pretrain: for the backbone.
        retrain: for an ensemble.
        from_real: whether pretraining starts from the trained real-valued twin.
    """

    pretrain: Recipe
    retrain: Recipe
    from_real: bool = False


class RecipesFor(Protocol):
    """(classes, network, scheme of the ensemble, number of training images) -> recipes.

    Without a name the network is not ours. `images` is for recipes that train few images for more
    epochs; `None`: as many as may be.
    """

    def __call__(
        self,
        classes: int,
        model_name: str | None = "resnet20",
        scheme: str = "fusion",
        images: int | None = None,
    ) -> Recipes: ...


@dataclass(frozen=True)
class PaperValues:
    """The hyperparameters of one network from the paper and its authors' logs.

    # Arguments
        pretrain_epochs, pretrain_lr: of the backbone.
        retrain_lr: of the ensemble, trained for 200 epochs.
        dropout: of ensembles, and of backbones with 100 classes or more.
        fusion_batch_size: images a step of the fusion schemes, which train all members at once.
        from_real: whether the backbone starts from its real-valued twin.
        assumed: the values that the paper does not state and we chose.
    """

    pretrain_epochs: int
    pretrain_lr: float
    retrain_lr: float
    dropout: float = 0.0
    fusion_batch_size: int = 256
    from_real: bool = False
    assumed: str = ""


_PAPER_VALUES = {
    "resnet20": PaperValues(400, 1e-3, 1e-2, dropout=0.5),
    "resnet18": PaperValues(
        400,
        1e-3,
        1e-2,
        dropout=0.5,
        fusion_batch_size=128,
        assumed="all but the epochs and batch size of retraining, as for resnet20",
    ),
    "birealnet18": PaperValues(200, 1e-3, 1e-3, fusion_batch_size=128),
    "reactnet10": PaperValues(400, 5e-4, 1e-3, from_real=True, assumed="no dropout"),
}
# A network that the paper lacks takes the values of the one it resembles, by default ResNet-20.
_RESEMBLES = {"resnet34": "resnet18", "birealnet34": "birealnet18"}
_PAPER = "Kim et al. 2022, Experimental results, and the authors' code and training logs"
_SHORT = "ours, for 2 CPU cores: so short a schedule leaves the network underfitted, so no dropout"
_SMALL = "ours, for few images; found by trying, see docs/reports/small-sets.md"
_OVERRIDDEN = "; overridden: "
_SMALL_BATCH = 32


def _paper(
    classes: int,
    model_name: str | None = "resnet20",
    scheme: str = "fusion",
    images: int | None = None,
) -> Recipes:
    """The paper's recipes. Weight decay is 0.

    The text says that there is no dropout for CIFAR-10; the authors' logs show that for
    backbones only. Their schedules are of binarized networks, so a real-valued one takes that of
    its twin. A network that is not ours takes ResNet-20's, with its own dropout.
    """
    from larq_ensemble.ensembles.schemes import SCHEMES

    if model_name is not None and model_name not in MODELS:
        raise UnknownNameError("model", model_name, MODELS)
    name = (model_name or "").removesuffix("_real")
    if name not in _PAPER_VALUES:
        name = _RESEMBLES.get(name, "resnet20")
    values = _PAPER_VALUES[name]
    network = model_name or "this network"
    assumed = values.assumed if name == network else f"all of {network}, as for {name}"
    source = f"{_PAPER}; not stated there: {assumed}" if assumed else _PAPER
    pretrain = Recipe(
        epochs=values.pretrain_epochs,
        batch_size=256,
        lr=values.pretrain_lr,
        dropout=None if model_name is None else values.dropout if classes >= 100 else 0.0,
        source=source,
        epsilon=1e-8,
        decay="epoch",
        drop_remainder=False,
    )
    return Recipes(
        pretrain=pretrain,
        retrain=replace(
            pretrain,
            epochs=200,
            batch_size=values.fusion_batch_size if SCHEMES[scheme].combined_loss else 256,
            lr=values.retrain_lr,
            dropout=None if model_name is None else values.dropout,
        ),
        from_real=values.from_real and not network.endswith("_real"),
    )


def _short(
    classes: int,
    model_name: str | None = "resnet20",
    scheme: str = "fusion",
    images: int | None = None,
) -> Recipes:
    dropout = None if model_name is None else 0.0
    return Recipes(
        pretrain=Recipe(epochs=20, batch_size=128, lr=2e-3, dropout=dropout, source=_SHORT),
        retrain=Recipe(epochs=5, batch_size=128, lr=5e-3, dropout=dropout, source=_SHORT),
    )


def _small(
    classes: int,
    model_name: str | None = "resnet20",
    scheme: str = "fusion",
    images: int | None = None,
) -> Recipes:
    """For some hundreds to some thousands of images: what they lack in images, in epochs.

    A network learns by steps, and 900 images in batches of 256 are three of them an epoch. So the
    batches are small, and the epochs are as many as make the steps.
    """

    def epochs(steps: int, least: int) -> int:
        return least if images is None else max(least, -(-steps * _SMALL_BATCH // images))

    dropout = None if model_name is None else 0.0
    return Recipes(
        pretrain=Recipe(
            epochs=epochs(steps=1200, least=20),
            batch_size=_SMALL_BATCH,
            lr=2e-3,
            dropout=dropout,
            source=_SMALL,
        ),
        retrain=Recipe(
            epochs=epochs(steps=150, least=5),
            batch_size=_SMALL_BATCH,
            lr=5e-3,
            dropout=dropout,
            source=_SMALL,
        ),
    )


RECIPES: Registry[RecipesFor] = Registry("recipe")
RECIPES.register("paper", _paper)
RECIPES.register("short", _short)
RECIPES.register("small", _small)


def default_recipe(dataset: Mapping[str, Any]) -> str:
    """The name of the recipe for a data set: of one's own `"small"`, built in `"paper"`.

    # Arguments
        dataset: `larq_ensemble.data.datasets.Dataset.constants`, as runs record them.
    """
    return "small" if "source" in dataset else "paper"


def recipes_for(
    dataset: Mapping[str, Any],
    recipe_name: str | None = None,
    *,
    model_name: str | None = "resnet20",
    scheme: str = "fusion",
    images: Callable[[], int] | None = None,
) -> Recipes:
    """The recipes for a data set.

    # Arguments
        dataset: as for `default_recipe`.
        recipe_name: one of `RECIPES`; `None`: the data set's default.
        model_name: the network; `None`: not ours.
        scheme: of the ensemble.
        images: counts the training images, for a recipe whose epochs depend on it; `None`: the
            epochs are not needed.

    # Raises
        UnknownNameError: for unknown names.
    """
    name = recipe_name or default_recipe(dataset)
    count = images() if name == "small" and images is not None else None
    return RECIPES[name](dataset["classes"], model_name, scheme, count)


@dataclass(frozen=True)
class TunedRecipe:
    """The settings of an ensemble that `larq_ensemble.training.tuning.tune` found, as a JSON file.

    # Arguments
        scheme, sharing: names.
        retrain: the recipe.
        tuned: the search: its backbone, members, trials and the best trial.
        keep_pretrained: how many members of its ensembles were the pretrained network.
        mirror: whether every second member saw the mirrored image.
    """

    scheme: str
    sharing: str
    retrain: Recipe
    tuned: dict[str, Any] = field(default_factory=dict)
    keep_pretrained: int = 0
    mirror: bool = False

    def write(self, path: str | os.PathLike[str]) -> None:
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> TunedRecipe:
        """Reads what `write` wrote.

        # Raises
            EnsembleError: if there is no such file, or one of another kind.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            scheme, sharing, retrain = values["scheme"], values["sharing"], values["retrain"]
            kept, mirror = values.get("keep_pretrained", 0), values.get("mirror", False)
            if not isinstance(mirror, bool):
                raise EnsembleError(f"`mirror` must be true or false, got {mirror!r}.")
            return cls(
                scheme,
                sharing,
                Recipe.from_json(retrain),
                values.get("tuned", {}),
                keep_pretrained=check_whole(
                    "keep_pretrained", int(kept) if isinstance(kept, bool) else kept, 0, 2
                ),
                mirror=mirror,
            )
        except OSError as error:
            raise EnsembleError(
                f"The recipe file {str(path)!r} can't be read ({error.strerror}): give paper, "
                "short, small or the recipe.json that `larq-ensemble tune` wrote."
            ) from error
        except EnsembleError as error:  # such as a rate below 0
            raise EnsembleError(f"The recipe file {str(path)!r}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise EnsembleError(
                f"{str(path)!r} is not a recipe file ({error!r}): give the recipe.json that "
                "`larq-ensemble tune` wrote."
            ) from error
