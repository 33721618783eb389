"""Search for the settings of an ensemble's training with KerasTuner, on the validation split.

KerasTuner proposes settings (its Bayesian optimization) and keeps the books; training is
`larq_ensemble.training.ensemble.train_ensemble`. The test split is not read.
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

from larq_ensemble.data.datasets import DATASETS, DataOptions
from larq_ensemble.ensembles.schemes import SCHEMES
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import write_text
from larq_ensemble.network.sharing import POLICIES
from larq_ensemble.runs import Run, load_run
from larq_ensemble.training.ensemble import train_ensemble
from larq_ensemble.training.graphs import free_networks
from larq_ensemble.training.recipes import RECIPES, Recipe, TunedRecipe

import keras_tuner as kt  # isort: skip  (it imports Keras 3, which must not be first)

OBJECTIVE = "validation_top1"
LEARNING_RATES = (3e-4, 3e-2)
JITTERS = (0.01, 0.5)  # Without any, members that see the same batches stay equal.
DROPOUTS = (0.0, 0.5)


@dataclass(frozen=True)
class Search:
    """What is searched, and on what.

    # Arguments
        members: M.
        epochs_max: the most epochs of a trial.
        schemes, sharing: names to choose from.
        recipe: name of the recipes whose other values hold in every trial.
        batch_size: in place of the recipe's.
        seed: of KerasTuner's proposals and of every training.
        data: the validation share must be the backbone's.
    """

    members: int
    epochs_max: int
    schemes: tuple[str, ...]
    sharing: tuple[str, ...]
    data: DataOptions
    recipe: str = "paper"
    batch_size: int | None = None
    seed: int = 0

    def space(self) -> kt.HyperParameters:
        """The hyperparameters that a trial is drawn from."""
        space = kt.HyperParameters()
        space.Choice("scheme", list(self.schemes))
        space.Choice("sharing", list(self.sharing))
        space.Float("lr", *LEARNING_RATES, sampling="log")
        space.Int("epochs", 1, self.epochs_max)
        space.Float("dropout", *DROPOUTS, step=0.1)
        space.Float("jitter", *JITTERS, sampling="log")
        return space


@dataclass(frozen=True)
class Trial:
    """One training of the search; `validation_top1` in percent, `None` if it failed."""

    number: int
    scheme: str
    sharing: str
    lr: float
    epochs: int
    dropout: float
    jitter: float
    validation_top1: float | None
    failure: str
    run: str


class EnsembleTuner(kt.Tuner):
    """Trains an ensemble for each trial and tells its accuracy on the validation split.

    KerasTuner finds Keras 3 installed and takes no model of Keras 2, so it is given none:
    `run_trial` does all the work.
    """

    def __init__(
        self,
        oracle: kt.Oracle,
        train: Callable[[str, dict[str, Any]], float],
        directory: Path,
    ) -> None:
        self._train = train
        # It announces that it reloads what it was asked to reload.
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(oracle=oracle, directory=str(directory), project_name="search")
        # By default only a finished trial is saved: a first trial that is killed would be lost.
        self.save()

    def run_trial(self, trial: Any) -> dict[str, float]:
        try:
            return {OBJECTIVE: self._train(trial.trial_id, trial.hyperparameters.values)}
        except EnsembleError as error:  # Such as a rate at which training diverges.
            raise kt.errors.FailedTrialError(str(error)) from error
        except Exception as error:
            raise kt.errors.FatalError(str(error)) from error


def tune(
    backbone: Run,
    out: str | os.PathLike[str],
    search: Search,
    *,
    trials: int,
    resume: bool = False,
    progress: Callable[[str], None] = print,
    verbose: int | str = "auto",
) -> tuple[TunedRecipe, list[Trial]]:
    """Searches, and writes the best settings to `out`/recipe.json, which `train` takes.

    # Arguments
        backbone: the pretrained run, which must have held out validation data.
        out: the folder: search/ is KerasTuner's, trials/ holds a run directory for each trial.
        trials: how many in all; a search that is resumed may be given more than before.
        resume: go on with the search in `out`, in the middle of a trial if need be.
        progress: is told what comes next, a line each.

    # Returns
        The best settings, and all trials in their order.

    # Raises
        EnsembleError: for unusable values, a taken directory, a search to resume that was started
            with other settings, or if every trial failed.
    """
    for scheme in search.schemes:
        _ = SCHEMES[scheme]
    for policy in search.sharing:
        _ = POLICIES[policy]
    config = backbone.config
    dataset = DATASETS[config.dataset["name"]]
    if not len(search.data.load(dataset, config.split_seed).validation):
        raise EnsembleError(
            f"The run {str(backbone.path)!r} held out no validation data to compare trials on: "
            "pretrain one that does, such as with a validation share of 0.1."
        )
    out = Path(out)
    _check_settings(out, search, backbone, resume)

    def settings_of(values: dict[str, Any]) -> dict[str, Any]:
        """A trial's values with the digits that people write."""
        return {
            name: float(f"{value:.3g}") if isinstance(value, float) else value
            for name, value in values.items()
        }

    def recipe_of(values: dict[str, Any]) -> Recipe:
        recipes = RECIPES[search.recipe](dataset.classes, config.model["name"], values["scheme"])
        return recipes.retrain.override(
            batch_size=search.batch_size,
            **{name: values[name] for name in ("lr", "epochs", "dropout", "jitter")},
        )

    def train(trial_id: str, values: dict[str, Any]) -> float:
        values = settings_of(values)
        path = out / "trials" / trial_id
        progress(
            f"{int(trial_id) + 1} of {trials}: {values['scheme']}, sharing {values['sharing']}, "
            f"lr {values['lr']:g}, {values['epochs']} epochs, dropout {values['dropout']:g}, "
            f"jitter {values['jitter']:g}"
        )
        free_networks()  # of the trial before
        _, result = train_ensemble(
            load_run(backbone.path),
            path,
            members=search.members,
            scheme=values["scheme"],
            sharing=values["sharing"],
            recipe=recipe_of(values),
            seed=search.seed,
            data=search.data,
            resume=True,
            verbose=verbose,
        )
        progress(f"{int(trial_id) + 1} of {trials}: validation top-1 {result[OBJECTIVE]:.2f} %")
        return result[OBJECTIVE]

    oracle = kt.oracles.BayesianOptimizationOracle(
        objective=kt.Objective(OBJECTIVE, "max"),
        max_trials=trials,
        num_initial_points=6,
        hyperparameters=search.space(),
        seed=search.seed + 1,  # KerasTuner takes 0 for none.
        max_consecutive_failed_trials=trials + 1,
    )
    oracle.verbose = 0
    tuner = EnsembleTuner(oracle, train, out)
    try:
        tuner.search()
    except kt.errors.FatalError as error:
        raise error.__cause__ or error from None
    done = [
        Trial(
            number=int(trial_id) + 1,
            validation_top1=trial.score if trial.status == "COMPLETED" else None,
            failure=(trial.message or "").strip().rpartition("\n")[2],
            run=str(out / "trials" / trial_id),
            **settings_of(trial.hyperparameters.values),
        )
        for trial_id, trial in sorted(oracle.trials.items(), key=lambda item: int(item[0]))
    ]
    completed = [trial for trial in done if trial.validation_top1 is not None]
    if not completed:
        raise EnsembleError(f"Every trial failed, the last with {done[-1].failure!r}.")
    best = max(completed, key=lambda trial: trial.validation_top1 or 0.0)
    tuned = TunedRecipe(
        scheme=best.scheme,
        sharing=best.sharing,
        retrain=recipe_of(asdict(best)),
        tuned={
            "pretrained": str(backbone.path),
            "members": search.members,
            "trials": len(done),
            "trial": best.number,
            OBJECTIVE: best.validation_top1,
        },
    )
    tuned.write(out / "recipe.json")
    return tuned, done


def _check_settings(out: Path, search: Search, backbone: Run, resume: bool) -> None:
    """Starts the folder of a search, or checks that the one there is of the same search."""
    path = out / "search.json"
    settings = json.loads(
        json.dumps({**asdict(search), "data": search.data.to_json(), "backbone": backbone.digest})
    )
    if path.is_file():
        if not resume:
            raise EnsembleError(
                f"`out` {str(out)!r} holds a search already: go on with `resume=True`, or choose "
                "another directory."
            )
        before = json.loads(path.read_text(encoding="utf-8"))
        for name, value in settings.items():
            if before.get(name) != value:
                raise EnsembleError(
                    f"The search in {str(out)!r} can't be resumed: it was started with {name} = "
                    f"{before.get(name)!r}, not {value!r}. Repeat the arguments that it was "
                    "started with, or choose another `out`."
                )
        return
    if out.is_file():
        raise EnsembleError(f"`out` {str(out)!r} is a file: choose a new directory.")
    if out.is_dir() and any(out.iterdir()):
        raise EnsembleError(
            f"`out` {str(out)!r} holds other files, but no search (search.json): choose a new or "
            "an empty directory, or to resume a search, its own."
        )
    write_text(path, json.dumps(settings, indent=2) + "\n")
