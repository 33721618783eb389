"""`larq-ensemble tune`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from larq_ensemble.console.options import (
    INPUT,
    OutputFolder,
    data_dir_option,
    dataset_option,
    members_option,
    names,
    normalization_option,
    seed_option,
)
from larq_ensemble.console.reporting import KERAS_VERBOSITY, json_option, reporting
from larq_ensemble.training.commands.options import batch_size_option


@click.command("tune", short_help="Search for the settings of an ensemble's training.")
@click.option(
    "--pretrained",
    type=INPUT,
    required=True,
    metavar="RUN|F.keras|NAME",
    help="The run that `pretrain` wrote, or a trained classifier that Keras saved.",
)
@members_option
@click.option(
    "--trials",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="How many trainings in all; --resume with more of them continues the search.",
)
@click.option(
    "--epochs-max",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="The most epochs of a trial; snapshot and fast_geometric take multiples of M.",
)
@click.option(
    "--schemes",
    type=names,
    default="fusion,voting,bagging",
    show_default=True,
    metavar="S,...",
    help="Schemes to choose from.",
)
@click.option(
    "--sharing",
    type=names,
    default="fusion,all_frozen,c1,c2,c3",
    show_default=True,
    metavar="P,...",
    help="Sharing policies to choose from: those whose storage the device can afford.",
)
@click.option(
    "--keep-pretrained",
    type=click.IntRange(1, 2),
    is_flag=False,
    flag_value=1,
    metavar="[N]",
    help="The first N members of every ensemble are the pretrained network, untouched, as in "
    "`train`.",
)
@click.option(
    "--mirror",
    is_flag=True,
    help="Every second member of every ensemble sees the image mirrored, as in `train`.",
)
@click.option(
    "--recipe",
    "recipe_name",
    help="paper, short or small: for all that is not searched, such as the batch size.  "
    "[default: paper; for data of your own small]",
)
@batch_size_option
@dataset_option
@normalization_option
@data_dir_option
@click.option("--limit-train", type=click.IntRange(2), metavar="N", help="Only N training images.")
@seed_option
@click.option(
    "--out",
    type=OutputFolder(),
    required=True,
    metavar="DIR",
    help="For recipe.json, trials.csv, the search and a run for each trial.",
)
@click.option(
    "--resume", is_flag=True, help="Go on with the search in --out, in the middle of a trial too."
)
@json_option
def command(
    pretrained: str,
    members: int,
    trials: int,
    epochs_max: int,
    schemes: tuple[str, ...],
    sharing: tuple[str, ...],
    keep_pretrained: int | None,
    mirror: bool,
    recipe_name: str | None,
    batch_size: int | None,
    dataset: str | None,
    normalization: str | None,
    data_dir: str | None,
    limit_train: int | None,
    seed: int,
    out: str,
    resume: bool,
    json_target: str | None,
) -> None:
    """Search learning rate, epochs, dropout, jitter, scheme and sharing with KerasTuner.

    Trials are compared by the ensemble's top-1 on the validation split of the pretrained run. The
    test split is not used. `train --recipe` takes the best settings from DIR/recipe.json.

    \b
    Examples:
      larq-ensemble tune --pretrained runs/backbone --trials 30 --out tuned
      larq-ensemble tune --pretrained runs/backbone --schemes fusion --sharing fusion,c2 \\
          --recipe short --limit-train 10000 --out tuned
      larq-ensemble train --pretrained runs/backbone --recipe tuned/recipe.json --out runs/best
      larq-ensemble tune --pretrained runs/backbone --members 8 --schemes nested_fusion \\
          --sharing fusion --keep-pretrained 2 --mirror --out tuned-nested
    """
    from larq_ensemble.data.datasets import DataOptions
    from larq_ensemble.trained import open_trained

    with reporting(json_target) as report:
        backbone = open_trained(
            pretrained, "backbone", dataset=dataset, data_dir=data_dir, normalization=normalization
        )
        from larq_ensemble.files import write_csv
        from larq_ensemble.training.recipes import default_recipe
        from larq_ensemble.training.tuning import Search, tune

        validation = backbone.config.validation
        given = None if dataset is None else backbone.dataset(dataset, data_dir)
        constants = backbone.config.dataset if given is None else given.constants()
        best, done = tune(
            backbone,
            out,
            Search(
                members=members,
                epochs_max=epochs_max,
                schemes=schemes,
                sharing=sharing,
                recipe=recipe_name or default_recipe(constants),
                batch_size=batch_size,
                seed=seed,
                keep_pretrained=keep_pretrained or 0,
                mirror=mirror,
                data=DataOptions(data_dir, validation, limit_train, limit_test=0),
            ),
            trials=trials,
            dataset=given,
            resume=resume,
            progress=report.line,
            verbose=KERAS_VERBOSITY,
        )
        report.table(
            f"Top-1 on the validation split of {pretrained}, M = {members}",
            ["trial", "scheme", "sharing", "lr", "epochs", "dropout", "jitter", "top-1 %"],
            [
                [
                    f"{trial.number}{' *' if trial.number == best.tuned['trial'] else ''}",
                    trial.scheme, trial.sharing, f"{trial.lr:g}", trial.epochs,
                    "-" if trial.dropout is None else f"{trial.dropout:g}",
                    f"{trial.jitter:g}", trial.validation_top1,
                ]
                for trial in done
            ],
        )  # fmt: skip
        for trial in done:
            if trial.validation_top1 is None:
                report.line(f"Trial {trial.number} failed: {trial.failure}")
        folder = Path(out)
        write_csv(folder / "trials.csv", done)
        report.line(
            f"* The best, in {folder / 'recipe.json'}: larq-ensemble train --pretrained "
            f"{pretrained} --members {members} --recipe {folder / 'recipe.json'} --out RUN"
        )
        report.result = {
            "recipe": str(folder / "recipe.json"),
            "best": asdict(best),
            "trials": [asdict(trial) for trial in done],
        }
