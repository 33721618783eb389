"""`larq-ensemble train`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from larq_ensemble.console.messages import Command
from larq_ensemble.console.options import (
    INPUT,
    NOT_NEGATIVE,
    POSITIVE,
    dataset_option,
    members_option,
    normalization_option,
    numbers,
    seed_option,
)
from larq_ensemble.console.reporting import KERAS_VERBOSITY, json_option, reporting
from larq_ensemble.training.commands.options import (
    as_begun,
    check_teacher_options,
    data_options,
    distillation_by,
    distribute_option,
    jax_option,
    recipe_options,
    refuse_options_of_data,
    run_options,
    teacher_options,
    training_data_options,
    training_under_jax,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from larq_ensemble.ensembles.building import Initial
    from larq_ensemble.training.recipes import TunedRecipe


@click.command(
    "train",
    cls=Command,
    arguments={"weight": "distill_weight"},
    short_help="Train an ensemble from a pretrained run.",
)
@click.option(
    "--pretrained",
    type=INPUT,
    required=True,
    metavar="RUN|F.keras|NAME",
    help="The run that `pretrain` wrote, or a trained classifier that Keras saved.",
)
@members_option
@click.option(
    "--scheme",
    help="fusion, nested_fusion, sampled_nested_fusion, voting, hard_voting, bagging, "
    "batch_bagging or soft_boosting; sequential, one member after the other: boosting, snapshot, "
    "fast_geometric, adversarial, adaboost or stochastic_rounding  "
    "[default: fusion, or what a recipe file says]",
)
@click.option(
    "--sharing",
    help="What members share: fusion, all_frozen, c1, c2, c3, none, or re:EXPR, a regular "
    "expression that matches the names of the layers to share  "
    "[default: fusion, or what a recipe file says]",
)
@click.option(
    "--independent-data",
    is_flag=True,
    help="Give each member its own order and augmentation of the images (not for fusion).",
)
@click.option(
    "--in-turn",
    is_flag=True,
    help="Train the members of voting or bagging sequentially, in the memory of one.",
)
@click.option(
    "--initial",
    type=click.Choice(["pretrained", "random"]),
    default="pretrained",
    show_default=True,
    help="What members start from; random needs --sharing none (BENN).",
)
@click.option(
    "--keep-pretrained",
    type=click.IntRange(1, 2),
    is_flag=False,
    flag_value=1,
    metavar="[N]",
    help="The first N members are the pretrained network, untouched, and the others are trained to "
    "go with them, so one member is never worse than it. N is 1, or 2 with --mirror: on the image "
    "and on the mirrored one. For a number of members that changes at run time  [default: what a "
    "recipe file says; without N 1]",
)
@click.option(
    "--mirror",
    is_flag=True,
    help="Every second member sees the image mirrored, so members err less alike. For images whose "
    "class it doesn't change, and backbones that --augment flip, rand or mix has shown both. Each "
    "member then computes the first layers too.",
)
@click.option(
    "--shrinkage",
    type=POSITIVE,
    help="For boosting and soft_boosting: the factor of each member in the sum  [default: 1]",
)
@click.option(
    "--patience",
    type=click.IntRange(1),
    metavar="N",
    help="For boosting and adaboost: stop after N members in a row that did not improve the "
    "validation accuracy, and drop those.",
)
@click.option(
    "--prefix-weights",
    type=numbers,
    metavar="W,...",
    help="For nested fusion: the weight of the loss of the first m members, for each m from 1 "
    "to M  [default: 1,4,9,... proportional to m^2]",
)
@click.option(
    "--recompute",
    is_flag=True,
    help="Run members one after the other, twice per step: the memory of one member's activations "
    "whatever M, the same result, about a third more time.",
)
@click.option(
    "--bfloat16",
    is_flag=True,
    help="Compute frozen binary convolutions in bfloat16, for CPUs with AVX512_BF16 or AMX: their "
    "sums stay exact, the gradients through them are rounded to 8 bits.",
)
@click.option(
    "--jitter",
    type=NOT_NEGATIVE,
    help="Noise on each member's initial batch norm  [default: the scheme's]",
)
@dataset_option
@normalization_option
@data_options
@training_data_options("as --pretrained was trained", "as --pretrained was trained")
@recipe_options
@teacher_options
@distribute_option
@jax_option
@seed_option
@run_options
@json_option
def command(
    pretrained: str,
    members: int,
    scheme: str | None,
    sharing: str | None,
    independent_data: bool,
    in_turn: bool,
    initial: Initial,
    keep_pretrained: int | None,
    mirror: bool,
    shrinkage: float | None,
    patience: int | None,
    prefix_weights: tuple[float, ...] | None,
    recompute: bool,
    bfloat16: bool,
    jitter: float | None,
    dataset: str | None,
    normalization: str | None,
    data_dir: str | None,
    limit_train: int | None,
    limit_test: int | None,
    augment: str | None,
    class_weights: str | None,
    recipe_name: str | None,
    epochs: int | None,
    batch_size: int | None,
    lr: float | None,
    end_lr: float | None,
    dropout: float | None,
    label_smoothing: float | None,
    warmup_epochs: float | None,
    weight_decay: float | None,
    teacher: str | None,
    distill_weight: float | None,
    temperature: float | None,
    distribute: str | None,
    jax: str | None,
    seed: int,
    out: str,
    resume: bool,
    json_target: str | None,
) -> None:
    """Train M members that share the frozen filters of a pretrained backbone.

    The data set, its validation split and the network come from the pretrained run. With a Keras
    file, --dataset says the data; its training may have seen what is held out here.

    In sequential schemes --epochs is for each member; in snapshot and fast_geometric it is for
    all together. The learning rate of fast_geometric goes from --end-lr up to --lr and back for
    each member. BENN, independent networks from scratch, is --sharing none --initial random
    with the scheme bagging or adaboost.

    \b
    Examples:
      larq-ensemble train --pretrained runs/digits --members 4 --epochs 10 --out runs/fusion
      larq-ensemble train --pretrained runs/backbone --scheme bagging --out runs/bagging
      larq-ensemble train --pretrained runs/backbone --scheme nested_fusion --out runs/nested
      larq-ensemble train --pretrained runs/backbone --scheme nested_fusion --keep-pretrained \\
          --out runs/kept
      larq-ensemble train --pretrained runs/backbone --scheme nested_fusion --mirror \\
          --keep-pretrained 2 --out runs/mirrored
      larq-ensemble train --pretrained runs/backbone --scheme bagging --in-turn --members 10 \\
          --out runs/bagging10
      larq-ensemble train --pretrained runs/backbone --scheme boosting --patience 2 --out runs/gb
      larq-ensemble train --pretrained runs/backbone --scheme snapshot --epochs 20 --out runs/snap
      larq-ensemble train --pretrained runs/backbone --scheme fast_geometric --epochs 20 \\
          --lr 5e-3 --end-lr 5e-5 --out runs/fge
      larq-ensemble train --pretrained runs/backbone --scheme adaboost --sharing none \\
          --initial random --out runs/benn_boosting
      larq-ensemble train --pretrained runs/backbone --teacher runs/real --out runs/taught
      larq-ensemble train --pretrained runs/backbone --members 16 --recompute --out runs/of16
      larq-ensemble train --pretrained runs/backbone --members 10 --bfloat16 --out runs/of10
      larq-ensemble train --pretrained runs/backbone --sharing 're:.*_conv[12]' --out runs/r
      larq-ensemble train --pretrained photos.keras --dataset folder:photos --normalization 0..1 \\
          --out runs/photos
    """
    check_teacher_options(teacher, distill_weight, temperature)
    from larq_ensemble.data.datasets import DataOptions
    from larq_ensemble.trained import open_trained

    with reporting(json_target) as report, training_under_jax(report, jax):
        backbone = open_trained(
            pretrained, "backbone", dataset=dataset, data_dir=data_dir, normalization=normalization
        )
        data = DataOptions(data_dir, backbone.config.validation, limit_train, limit_test)

        given = None if dataset is None else backbone.dataset(dataset, data_dir)

        def images() -> int:
            return data.training_images(given or backbone.dataset(data_dir=data_dir))

        own = backbone.config
        chosen = _chosen(
            scheme,
            sharing,
            recipe_name,
            own.dataset if given is None else given.constants(),
            own.architecture,
            images if epochs is None else None,
        )
        recipe = chosen.retrain.override(
            epochs=epochs, batch_size=batch_size, lr=lr, end_lr=end_lr, dropout=dropout,
            jitter=jitter, label_smoothing=label_smoothing, warmup_epochs=warmup_epochs,
            weight_decay=weight_decay,
        )  # fmt: skip
        recipe = as_begun(recipe, out, resume=resume)
        if not recipe.epochs:
            refuse_options_of_data(backbone.config.dataset.get("name", ""))
        from larq_ensemble.training.ensemble import train_ensemble

        run, result = train_ensemble(
            backbone,
            out,
            members=members,
            scheme=chosen.scheme,
            sharing=chosen.sharing,
            recipe=recipe,
            seed=seed,
            dataset=given,
            data=data,
            augment=augment,
            class_weights=class_weights,
            independent_data=independent_data,
            in_turn=in_turn,
            initial=initial,
            keep_pretrained=keep_pretrained or chosen.keep_pretrained,
            mirror=mirror or chosen.mirror,
            distillation=distillation_by(teacher, distill_weight, temperature),
            shrinkage=shrinkage,
            patience=patience,
            prefix_weights=prefix_weights,
            distribute=distribute,
            recompute=recompute,
            bfloat16=bfloat16,
            resume=resume,
            verbose=KERAS_VERBOSITY,
        )
        report.result = result
        if recipe.epochs:
            count = run.config.ensemble["members"]  # fewer than asked for if it ended early
            report.table(
                f"{run.path}: {chosen.scheme} of {count}, sharing {chosen.sharing}, test top-1 %",
                ["network", "top-1 %"],
                [
                    ["backbone", result["backbone_top1"]],
                    *([f"member {m}", top1] for m, top1 in enumerate(result["member_top1"] or ())),
                    ["ensemble", result["test_top1"]],
                ],
            )
        if not backbone.config.held_out_is_known:
            report.line(
                f"What the training of {pretrained} held out is not known: validation accuracies "
                "may be too good."
            )
        report.line(f"Wrote {run.path}.")


def _chosen(
    scheme: str | None,
    sharing: str | None,
    recipe_name: str | None,
    dataset: Mapping[str, Any],
    architecture: str | None,
    images: Callable[[], int] | None,
) -> TunedRecipe:
    """Scheme, sharing and recipe: as the options say, else a recipe file, else the defaults.

    # Arguments
        dataset: its constants.
        architecture: of the backbone.
        images: as for `larq_ensemble.training.recipes.recipes_for`.
    """
    from larq_ensemble.training.recipes import TunedRecipe, recipes_for

    if recipe_name is not None and recipe_name.endswith(".json"):
        tuned = TunedRecipe.read(recipe_name)
        return replace(tuned, scheme=scheme or tuned.scheme, sharing=sharing or tuned.sharing)
    scheme = scheme or "fusion"
    recipes = recipes_for(
        dataset,
        recipe_name,
        model_name=architecture,
        scheme=scheme,
        images=images,
    )
    return TunedRecipe(scheme, sharing or "fusion", recipes.retrain)
