"""The trained networks of the figures. Each is trained once; figures share run directories."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from larq_ensemble.console.wording import counted
from larq_ensemble.data.datasets import DATASETS, DataOptions
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import is_run, read_json, replacing
from larq_ensemble.network.architectures import REVISION
from larq_ensemble.network.sharing import has_own_head_bias
from larq_ensemble.progress import Work
from larq_ensemble.runs import Run, RunConfig, create_run, load_run
from larq_ensemble.training.paper.figures import Curve
from larq_ensemble.training.recipes import RECIPES, Recipe, Recipes

#: What a member has when it is trained.
_MEMBER_RESULT = "result.json"


@dataclass(frozen=True)
class Settings:
    """How the networks of a figure are trained.

    # Arguments
        data: place, validation split and limits of the data. The paper holds nothing out.
        recipe: name of the recipes.
        epochs, pretrain_epochs: of ensembles and backbones, in place of the recipe's.
        dataset: in place of the figure's; the paper has no values for another.
        width: multiplies the channels of every network.
        seed: of everything that is random.
        bfloat16: train in mixed precision what can be: backbones, and members that are trained
            together and share binary filters whose inputs the convolution itself binarizes.
    """

    data: DataOptions
    recipe: str = "paper"
    epochs: int | None = None
    pretrain_epochs: int | None = None
    dataset: str | None = None
    width: float = 1.0
    seed: int = 0
    bfloat16: bool = False

    @property
    def suffix(self) -> str:
        """Of the names of a figure's files: the settings that are not the default."""
        data = self.data
        parts = (
            (self.dataset, self.dataset is not None),
            (self.recipe, self.recipe != Settings.recipe),
            (f"pretrain{self.pretrain_epochs}", self.pretrain_epochs is not None),
            (f"{self.epochs}epochs", self.epochs is not None),
            (f"width{self.width:g}", self.width != Settings.width),
            (f"train{data.limit_train}", data.limit_train is not None),
            (f"test{data.limit_test}", data.limit_test is not None),
            (f"validation{data.validation:g}", data.validation > 0),
            (f"seed{self.seed}", self.seed != Settings.seed),
            ("bfloat16", self.bfloat16),
        )
        return "".join(f"-{part}" for part, is_named in parts if is_named)

    def recipes(self, model: str, dataset: str, scheme: str = "fusion") -> Recipes:
        """The recipes for a network on a data set, with the epochs asked for."""
        recipes = RECIPES[self.recipe](DATASETS[dataset].classes, model, scheme)
        return replace(
            recipes,
            pretrain=recipes.pretrain.override(epochs=self.pretrain_epochs),
            retrain=recipes.retrain.override(epochs=self.epochs),
        )


class RunLibrary:
    """Backbones and ensembles by their settings; trains those that are missing.

    The ensembles of a backbone are beside it: `{model}-{dataset}-{epochs}epochs-seed{seed}/` holds
    `backbone/` and `{scheme}-{sharing}-m{M}-{epochs}epochs/`, with `-owndata` where members iterate
    over the data by themselves. So figures with the same folder share their runs. Members that are
    trained one after the other are trained once, for all M: the first m do not depend on it.

    # Arguments
        folder: where the run directories are.
        settings: how networks are trained.
        total: how many runs will be asked for, for the lines of `progress`.
        progress: called with a line before each training.
        verbose: Keras's verbosity.
        work: told of the epochs times members of each training.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        total: int,
        progress: Callable[[str], None],
        verbose: int | str,
        work: Work,
    ) -> None:
        self._total = total
        self._folder = folder
        self._settings = settings
        self._progress = progress
        self._verbose = verbose
        self._work = work
        self._backbones: dict[Path, tuple[Run, dict[str, Any]]] = {}
        self._in_bfloat16: dict[str, bool] = {}
        self._asked = 0

    def backbone(self, model: str, dataset: str) -> tuple[Run, dict[str, Any]]:
        """The backbone and its result; before it the real-valued twin, if the recipe has one."""
        settings = self._settings
        recipes = settings.recipes(model, dataset)
        recipe = recipes.pretrain
        group = f"{model}-{dataset}-{recipe.epochs}epochs-seed{settings.seed}"
        path = self._folder / group / "backbone"
        if path not in self._backbones:
            what = f"{model} on {dataset}, {counted(recipe.epochs, 'epoch')}"
            twin: Run | None = None
            if recipes.from_real:
                twin, _ = self.backbone(f"{model}_real", dataset)
                what += ", from the real-valued"

            def train() -> tuple[Run, dict[str, Any]]:
                from larq_ensemble.training.memory import free_networks
                from larq_ensemble.training.pretrain import pretrain

                free_networks()  # of the training before; the twin is loaded again
                return pretrain(
                    model, dataset, path, recipe=recipe, seed=settings.seed,
                    width=settings.width, data=settings.data,
                    from_real=load_run(twin.path) if twin else None,
                    bfloat16=settings.bfloat16, resume=True, verbose=self._verbose,
                )  # fmt: skip

            def same_origin(config: RunConfig) -> bool:
                return config.transfer == ({"from_real": twin.digest} if twin else {}) and (
                    config.precision == ("bfloat16" if settings.bfloat16 else "float32")
                )

            self._backbones[path] = self._get(
                path, recipe, what, train, same_origin, epochs=recipe.epochs
            )
        return self._backbones[path]

    def ensemble(self, backbone: Run, curve: Curve, members: int) -> tuple[Run, dict[str, Any]]:
        """The ensemble of `members` from the backbone, and its result."""
        settings = self._settings
        dataset = backbone.config.dataset["name"]
        recipe = settings.recipes(curve.model, dataset, curve.scheme).retrain
        path = backbone.path.parent / _folder_name(curve, members, recipe)
        bfloat16 = self._trains_in_bfloat16(curve)

        def train() -> tuple[Run, dict[str, Any]]:
            from larq_ensemble.training.ensemble import train_ensemble
            from larq_ensemble.training.memory import free_networks

            free_networks()  # of the training before; the backbone is loaded again
            return train_ensemble(
                load_run(backbone.path), path, members=members, scheme=curve.scheme,
                sharing=curve.sharing, recipe=recipe, seed=settings.seed, data=settings.data,
                independent_data=curve.own_data, in_turn=curve.own_data,
                bfloat16=bfloat16, resume=True, verbose=self._verbose,
            )  # fmt: skip

        what = (
            f"{curve.scheme} of {members} {curve.model} on {dataset}, "
            f"sharing {curve.sharing}, {counted(recipe.epochs, 'epoch')}"
        )

        def same_origin(config: RunConfig) -> bool:
            return config.ensemble["backbone"] == backbone.digest and (
                config.ensemble.get("bfloat16", False) == bfloat16
            )

        taken = 0
        if curve.own_data and not (path / "result.json").exists():
            folders = path.parent.glob(_folder_name(curve, "*", recipe))
            finished = [self._finished(folder, recipe, same_origin) for folder in folders]
            taken = self._take_over([run for run, _ in filter(None, finished)], path, members)
            self._work.total -= taken * recipe.epochs
        return self._get(
            path, recipe, what, train, same_origin, epochs=recipe.epochs * (members - taken)
        )

    def _trains_in_bfloat16(self, curve: Curve) -> bool:
        """Whether the members of a curve do, as far as that is asked for.

        Those trained in turn can't, nor those without a shared filter, or whose convolutions leave
        signs to other layers, as ReActNet's.
        """
        if not self._settings.bfloat16 or curve.own_data or curve.sharing == "none":
            return False
        if curve.model not in self._in_bfloat16:
            from larq_ensemble.ensembles.traced import can_run_in_bfloat16
            from larq_ensemble.models import build_model

            data = DATASETS[curve.dataset]
            model = build_model(curve.model, input_shape=data.input_shape, classes=data.classes)
            self._in_bfloat16[curve.model] = can_run_in_bfloat16(model.layers)
        return self._in_bfloat16[curve.model]

    def _take_over(self, others: Sequence[Run], path: Path, members: int) -> int:
        """Begins a run with the first members of a finished one that differs from it only in M.

        Where members are trained one after the other, the first m do not depend on M. The run then
        looks as if it had been interrupted after them. After a kill the same call goes on.

        # Arguments
            others: the finished runs.
            path: of the run.
            members: its M.

        # Returns
            How many members it has.

        # Raises
            EnsembleError: if another process trains the run, or it can't be written.
        """
        if not others:
            return 0
        from larq_ensemble.ensembles.names import member_output  # with TensorFlow

        other = max(others, key=lambda run: run.config.ensemble["members"])
        config = replace(other.config, ensemble={**other.config.ensemble, "members": members})
        first = map(member_output, range(min(members, other.config.ensemble["members"])))
        # Whoever needs room may have deleted the others, or their networks.
        there = list(takewhile(lambda member: _is_finished(other.path / member), first))
        if not there:
            return 0
        with contextlib.ExitStack() as until:
            create_run(path, config, resume=True, until=until)
            missing = [member for member in there if not _is_finished(path / member)]
            if missing:
                self._progress(f"{path}: {counted(len(missing), 'member')} of {other.path}")
            for member in missing:
                _copy_member(other.path / member, path / member)
        return len(there)

    def _get(
        self,
        path: Path,
        recipe: Recipe,
        what: str,
        train: Callable[[], tuple[Run, dict[str, Any]]],
        same_origin: Callable[[RunConfig], bool],
        *,
        epochs: int,
    ) -> tuple[Run, dict[str, Any]]:
        self._asked += 1
        self._work.next = epochs
        head = f"{self._asked} of {self._total}: {what}"
        finished = self._finished(path, recipe, same_origin)
        if finished is not None:
            self._progress(f"{head}: finished already, {path}")
            self._work.total -= epochs
            return finished
        self._progress(f"{head}: {'going on' if path.exists() else 'training'}, {path}")
        trained = train()
        self._work.advance(epochs)
        return trained

    def _finished(
        self, path: Path, recipe: Recipe, same_origin: Callable[[RunConfig], bool]
    ) -> tuple[Run, dict[str, Any]] | None:
        """The run if it has finished with these settings; does not load its network."""
        if not is_run(path):
            return None
        run = load_run(path)
        _check_network(run)
        if not (run.result_path.is_file() and run.model_path.is_file()):
            return None
        config, data = run.config, self._settings.data.to_json()
        same = (
            config.recipe == recipe.to_json()
            and config.seed == self._settings.seed
            and same_origin(config)
            and config.model["width"] == self._settings.width
            and all(config.data[key] == value for key, value in data.items())
        )
        # With other settings, `open_run` says which of them differs.
        if not same:
            return None
        try:
            return run, read_json(run.result_path, "resume the training")
        except EnsembleError:  # damaged: resuming writes it again
            return None


def _is_finished(member: Path) -> bool:
    """Whether a folder holds a trained member."""
    return all((member / name).is_file() for name in (_MEMBER_RESULT, "model.keras"))


def _copy_member(source: Path, target: Path) -> None:
    """Copies a trained member; it is finished with its result, which is the last file.

    # Raises
        EnsembleError: if a file can't be read or written.
    """
    try:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(_MEMBER_RESULT))
        with replacing(target / _MEMBER_RESULT) as temporary:
            shutil.copyfile(source / _MEMBER_RESULT, temporary)
    except OSError as error:
        raise EnsembleError(
            f"The member {str(source)!r} can't be copied to {str(target)!r} ({error}): make room, "
            "or delete the second folder to have it trained there."
        ) from error


def _folder_name(curve: Curve, members: int | str, recipe: Recipe) -> str:
    """Of the run of an ensemble."""
    return (
        f"{curve.scheme}-{curve.sharing}-m{members}-{recipe.epochs}epochs"
        f"{'-owndata' if curve.own_data else ''}"
    )


def _check_network(run: Run) -> None:
    """# Raises
    EnsembleError: if a run is of a network or a sharing of before they were the paper's.
    """
    config = run.config
    if config.model["revision"] != REVISION or (
        has_own_head_bias(config.ensemble.get("sharing")) and not config.own_head_bias
    ):
        raise EnsembleError(
            f"The run {str(run.path)!r} is of an earlier version of larq-ensemble, whose network "
            "or sharing differs from the paper's: choose another `out`, or move the runs away."
        )
