"""Search for the settings of an ensemble's training with KerasTuner.

Bayesian optimization proposes settings, `larq_ensemble.training.ensemble.train_ensemble` trains
them, and the accuracy on the validation split ranks them. The test split is not read.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from larq_ensemble.console.wording import counted
from larq_ensemble.data.datasets import DataOptions, Dataset
from larq_ensemble.ensembles.building import check_kept, check_mirrors
from larq_ensemble.ensembles.schemes import SCHEMES
from larq_ensemble.errors import EnsembleError, SettingsError
from larq_ensemble.files import read_json, write_text
from larq_ensemble.keras import keras
from larq_ensemble.locks import resumable
from larq_ensemble.network.sharing import POLICIES
from larq_ensemble.progress import Work, working
from larq_ensemble.runs import compared_data, load_run
from larq_ensemble.trained import Trained, data_of
from larq_ensemble.training.ensemble import train_ensemble
from larq_ensemble.training.job import saying_what_is_saved
from larq_ensemble.training.memory import free_networks
from larq_ensemble.training.recipes import RECIPES, Recipe, TunedRecipe

import keras_tuner as kt  # isort: skip  (it imports Keras 3, which must not be first)

OBJECTIVE = "validation_top1"
LEARNING_RATES = (3e-4, 3e-2)
JITTERS = (0.01, 0.5)  # not 0: members that see the same batches would stay equal
DROPOUTS = (0.0, 0.5)
_FILES = ("oracle.json", "recipe.json", "search.json", "trial.json", "trials.csv")


@dataclass(frozen=True)
class Search:
    """The space of a search, and what all its trials have in common.

    # Arguments
        members: M.
        epochs_max: the most epochs of a trial. Schemes that split them among the members get
            multiples of M.
        schemes, sharing: names to choose from.
        keep_pretrained, mirror: as for `larq_ensemble.ensembles.build_ensemble`.
        data: of every trial; the validation share must be the backbone's.
        recipe: name of the recipes for all that is not searched.
        batch_size: in place of the recipe's.
        seed: of KerasTuner's proposals and of every training.
    """

    members: int
    epochs_max: int
    schemes: tuple[str, ...]
    sharing: tuple[str, ...]
    data: DataOptions
    recipe: str = "paper"
    batch_size: int | None = None
    seed: int = 0
    keep_pretrained: int = 0
    mirror: bool = False

    def space(self, *, dropout: bool = True) -> kt.HyperParameters:
        """The hyperparameters that a trial is drawn from.

        # Arguments
            dropout: whether the network has a Dropout layer.
        """
        space = kt.HyperParameters()
        space.Choice("scheme", list(self.schemes))
        space.Choice("sharing", list(self.sharing))
        space.Float("lr", *LEARNING_RATES, sampling="log")
        space.Int("epochs", 1, self.epochs_max)
        if dropout:
            space.Float("dropout", *DROPOUTS, step=0.1)
        space.Float("jitter", *JITTERS, sampling="log")
        return space

    def settled(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values of a trial as it is trained: three digits, epochs that the scheme takes."""
        epochs = SCHEMES[values["scheme"]].possible_epochs(values["epochs"], self.members)
        return {
            name: float(f"{value:.3g}") if isinstance(value, float) else value
            for name, value in {**values, "epochs": epochs}.items()
        }

    def recipe_for(self, backbone: Trained, values: dict[str, Any]) -> Recipe:
        """The recipe of a trial with these values."""
        classes, model = backbone.config.dataset["classes"], backbone.config.architecture
        searched = {name: values.get(name) for name in ("lr", "epochs", "dropout", "jitter")}
        recipes = RECIPES[self.recipe](classes, model, values["scheme"])
        return recipes.retrain.override(batch_size=self.batch_size, **searched)


@dataclass(frozen=True)
class Trial:
    """One training of a search.

    `validation_top1` is in percent, `None` if it failed; `dropout` is `None` if the network has no
    Dropout layer.
    """

    number: int
    scheme: str
    sharing: str
    lr: float
    epochs: int
    dropout: float | None
    jitter: float
    validation_top1: float | None
    failure: str
    run: str


_DAMAGED = (
    "restore it from a copy, or search again with another `out`; the runs of finished trials stay"
)


class _Oracle(kt.oracles.BayesianOptimizationOracle):
    """KerasTuner's, whose files are written whole or not at all, wherever they are."""

    def save(self) -> None:
        write_text(self._get_oracle_fname(), json.dumps(self.get_state()))

    def _save_trial(self, trial: Any) -> None:
        path = Path(self._get_trial_dir(trial.trial_id)) / "trial.json"
        write_text(path, json.dumps(trial.get_state()))

    def reload(self) -> None:
        """Takes up the search that `save` wrote; the trial in progress will be repeated.

        KerasTuner looks for trials by a glob pattern made from the path. It also takes up a trial
        that it saved just before it was killed, without running it.
        """
        path = Path(self._get_oracle_fname())
        state = read_json(path, _DAMAGED)
        try:
            for trial_id in state["start_order"]:
                file = path.parent / f"trial_{trial_id}" / "trial.json"
                self.trials[trial_id] = kt.engine.trial.Trial.from_state(read_json(file, _DAMAGED))
            self.set_state(state)
        except (KeyError, TypeError, AttributeError) as error:
            raise EnsembleError(
                f"The search in {str(path.parent)!r} is damaged ({error!r}): {_DAMAGED}."
            ) from error
        self._retry_queue += state["ongoing_trials"].values()
        self.ongoing_trials.clear()


class EnsembleTuner(kt.Tuner):
    """Trains an ensemble for each trial and reports its accuracy on the validation split.

    KerasTuner finds Keras 3 installed and refuses models of Keras 2, so `run_trial`, which returns
    the objective, does all the work. All state is the oracle's.
    """

    def __init__(
        self,
        oracle: kt.Oracle,
        train: Callable[[str, dict[str, Any]], float],
        directory: Path,
    ) -> None:
        self._train = train
        # KerasTuner prints that it reloads the search.
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(oracle=oracle, directory=str(directory), project_name="search")
        # KerasTuner saves after a trial; this way a search killed in the first one is resumed too.
        self.save()

    def _get_tuner_fname(self) -> str:
        return self.oracle._get_oracle_fname()

    def save(self) -> None:
        self.oracle.save()

    def reload(self) -> None:
        self.oracle.reload()

    def run_trial(self, trial: Any) -> dict[str, float]:
        try:
            return {OBJECTIVE: self._train(trial.trial_id, trial.hyperparameters.values)}
        except SettingsError as error:  # such as a learning rate at which training diverges
            raise kt.errors.FailedTrialError(str(error)) from error
        except Exception as error:
            raise kt.errors.FatalError(str(error)) from error


def tune(
    backbone: Trained,
    out: str | os.PathLike[str],
    search: Search,
    *,
    trials: int,
    dataset: str | Dataset | None = None,
    resume: bool = False,
    progress: Callable[[str], None] = print,
    verbose: int | str = "auto",
) -> tuple[TunedRecipe, list[Trial]]:
    """Searches for the best settings and writes them to `out`/recipe.json.

    # Arguments
        backbone: the pretrained run, which must have held out validation data, or a Keras file,
            see `train_ensemble`.
        out: the folder: search/ is KerasTuner's, trials/ holds a run directory for each trial.
        search: the search space.
        trials: how many in all; a resumed search may be given more than before.
        dataset: as for `train_ensemble`.
        resume: go on with the search in `out`, in the middle of a trial if need be.
        progress: called with a line before and after each trial.
        verbose: Keras's verbosity.

    # Returns
        The best settings, and all trials in their order.

    # Raises
        EnsembleError: for unusable values, a directory that holds a search with other settings or
            data, or other files, for what would end any trial, such as a full disk, or if every
            trial failed by its own settings.
    """
    _check_names(search)
    if not resume:  # a search that began with less goes on
        _check_epochs(search)
    opened = data_of(backbone, dataset, search.data.data_dir)
    _check_validation(search, backbone, opened)
    settings = {
        **asdict(search),
        "data": search.data.to_json(),
        "backbone": backbone.digest,
        "dataset": compared_data(opened.constants()),
    }
    for option in ("keep_pretrained", "mirror"):
        if not settings[option]:  # searches that began before there was a choice go on
            del settings[option]
    with (
        saying_what_is_saved(Path(out)),
        resumable(
            out,
            json.loads(json.dumps(settings)),  # tuples become lists
            what="search",
            file="search.json",
            files=_FILES,
            way_out=_DAMAGED,
            resume=resume,
            newer=("dataset",),
        ) as folder,
    ):
        of_trials = None if dataset is None else opened
        return _search(backbone, of_trials, folder, search, trials, progress, verbose)


def _search(
    backbone: Trained,
    dataset: Dataset | None,
    out: Path,
    search: Search,
    trials: int,
    progress: Callable[[str], None],
    verbose: int | str,
) -> tuple[TunedRecipe, list[Trial]]:
    oracle = _Oracle(
        objective=kt.Objective(OBJECTIVE, "max"),
        max_trials=trials,
        num_initial_points=6,
        hyperparameters=search.space(dropout=_has_dropout(backbone)),
        seed=search.seed + 1,  # to KerasTuner 0 is no seed
        max_consecutive_failed_trials=trials + 1,
    )
    oracle.verbose = 0
    try:
        with working("trial", trials, unit="trial") as work:
            training = _Training(backbone, dataset, out, search, trials, progress, verbose, work)
            EnsembleTuner(oracle, training, out).search()
    except kt.errors.FatalError as error:
        raise error.__cause__ or error from None
    done = _trials(oracle, out, search)
    completed = [trial for trial in done if trial.validation_top1 is not None]
    if not completed:
        raise EnsembleError(f"Every trial failed, the last with {done[-1].failure!r}.")
    best = max(completed, key=lambda trial: trial.validation_top1 or 0.0)
    tuned = TunedRecipe(
        scheme=best.scheme,
        sharing=best.sharing,
        retrain=_recipe(search, backbone, out, asdict(best)),
        tuned={
            "pretrained": str(backbone.path),
            "members": search.members,
            "trials": len(done),
            "trial": best.number,
            OBJECTIVE: best.validation_top1,
        },
        keep_pretrained=search.keep_pretrained,
        mirror=search.mirror,
    )
    tuned.write(out / "recipe.json")
    return tuned, done


@dataclass(frozen=True)
class _Training:
    """(number, values) of a trial -> the validation top-1 of the ensemble trained with them."""

    backbone: Trained
    dataset: Dataset | None
    out: Path
    search: Search
    trials: int
    progress: Callable[[str], None]
    verbose: int | str
    work: Work

    def __call__(self, trial_id: str, values: dict[str, Any]) -> float:
        search = self.search
        values = search.settled(values)
        head = f"{int(trial_id) + 1} of {self.trials}:"
        self.progress(
            f"{head} {values['scheme']}, sharing {values['sharing']}, lr {values['lr']:g}, "
            f"{counted(values['epochs'], 'epoch')}, "
            + (f"dropout {values['dropout']:g}, " if "dropout" in values else "")
            + f"jitter {values['jitter']:g}"
        )
        self.work.done = int(trial_id)
        free_networks()  # of the last trial
        _, result = train_ensemble(
            self.backbone.fresh(),
            self.out / "trials" / trial_id,
            members=search.members,
            scheme=values["scheme"],
            sharing=values["sharing"],
            keep_pretrained=search.keep_pretrained,
            mirror=search.mirror,
            recipe=_recipe(search, self.backbone, self.out, values),
            seed=search.seed,
            dataset=self.dataset,
            data=search.data,
            resume=True,
            verbose=self.verbose,
        )
        self.progress(f"{head} validation top-1 {result[OBJECTIVE]:.2f} %")
        return result[OBJECTIVE]


def _recipe(search: Search, backbone: Trained, out: Path, values: dict[str, Any]) -> Recipe:
    """The recipe of a trial: as the search began, if the named recipe was another then."""
    recipe = search.recipe_for(backbone, values)
    begun = sorted((out / "trials").glob("*/config.json"))
    return recipe.as_begun(load_run(begun[0].parent).config.recipe) if begun else recipe


def _trials(oracle: kt.Oracle, out: Path, search: Search) -> list[Trial]:
    return [
        Trial(
            number=int(trial_id) + 1,
            validation_top1=trial.score if trial.status == "COMPLETED" else None,
            failure=(trial.message or "").strip().rpartition("\n")[2],
            run=str(out / "trials" / trial_id),
            **{"dropout": None, **search.settled(trial.hyperparameters.values)},
        )
        for trial_id, trial in sorted(oracle.trials.items(), key=lambda item: int(item[0]))
    ]


def _has_dropout(backbone: Trained) -> bool:
    """Whether the network has a Dropout layer; all of ours have one."""
    return backbone.config.architecture is not None or any(
        isinstance(layer, keras.layers.Dropout) for layer in backbone.model.layers
    )


def _check_names(search: Search) -> None:
    if search.mirror:
        check_mirrors(search.members)
    for scheme in map(SCHEMES.__getitem__, search.schemes):
        check_kept(
            search.keep_pretrained, search.members, "pretrained", scheme, mirror=search.mirror
        )
    for policy in search.sharing:
        _ = POLICIES[policy]


def _check_epochs(search: Search) -> None:
    for scheme in search.schemes:
        least = SCHEMES[scheme].possible_epochs(1, search.members)
        if least > search.epochs_max:
            raise EnsembleError(
                f"`epochs_max` {search.epochs_max} is too few for the scheme {scheme!r}, which "
                f"splits the epochs among the {search.members} members: give {least} or more."
            )


def _check_validation(search: Search, backbone: Trained, dataset: Dataset) -> None:
    data = search.data
    if not data.validation:
        raise EnsembleError(
            f"The run {str(backbone.path)!r} held out no validation data to compare trials on: "
            "pretrain one that does, such as with a validation share of 0.1."
        )
    if not len(data.load(dataset, backbone.config.split_seed).validation):
        raise EnsembleError(
            f"Of `limit_train={data.limit_train}` images the validation share {data.validation:g} "
            f"of the run {str(backbone.path)!r} is none to compare trials on: give more."
        )
