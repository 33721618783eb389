"""`larq-ensemble pretrain`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from larq_ensemble.console.messages import Command, in_options
from larq_ensemble.console.options import (
    INPUT,
    POSITIVE,
    SHARE,
    SHARE_BELOW_1,
    seed_option,
    width_option,
)
from larq_ensemble.console.reporting import KERAS_VERBOSITY, json_option, reporting
from larq_ensemble.network.commands.options import model_option
from larq_ensemble.training.commands.options import (
    as_begun,
    data_options,
    distribute_option,
    recipe_options,
    refuse_options_of_data,
    run_options,
    training_data_options,
)

if TYPE_CHECKING:
    from larq_ensemble.models import PReLUGradient


@click.command(
    "pretrain",
    cls=Command,
    arguments={"weight": "distill_weight"},
    short_help="Train a backbone.",
)
@model_option
@click.option(
    "--dataset",
    "dataset_name",
    default="digits",
    show_default=True,
    help="digits (comes with scikit-learn), cifar10 or cifar100.",
)
@data_options
@click.option(
    "--validation",
    type=SHARE_BELOW_1,
    default=0.1,
    show_default=True,
    help="Share of the training images held out for validation.",
)
@training_data_options("the data set's", "none")
@recipe_options
@width_option
@click.option(
    "--pad-values",
    type=click.Choice(["0", "1"]),
    help="Padding of binary convolutions  [default: 0, as the paper; 1 in deploynet9]",
)
@click.option(
    "--estimator",
    type=click.Choice(["ste_sign", "approx_sign"]),
    help="Gradient of the sign of activations  [default: ste_sign, as the paper; approx_sign in "
    "reactnet10, which has no other]",
)
@click.option(
    "--prelu-gradient",
    type=click.Choice(["zero", "slope"]),
    help="Gradient of PReLU where its input is exactly 0: zero, as in Keras, or the slope, as in "
    "PyTorch and the paper's code  [default: slope]",
)
@click.option(
    "--from-real",
    type=INPUT,
    metavar="RUN",
    help="Start from the weights of this run of the real-valued twin; those to be binarized are "
    "clipped to [-1, 1].",
)
@click.option(
    "--from-backbone",
    type=INPUT,
    metavar="RUN",
    help="Start from the weights of this run of the same network, trained on other classes or "
    "another image size; the linear layer starts anew (transfer learning).",
)
@click.option(
    "--teacher",
    type=INPUT,
    metavar="RUN",
    help="Also learn from the logits of this run, of the same classes and image shape (knowledge "
    "distillation).",
)
@click.option(
    "--distill-weight",
    type=SHARE,
    help="Share of the teacher in the loss, 0 to 1; the rest is the labels'.  [default: 0.9]",
)
@click.option(
    "--temperature", type=POSITIVE, help="Divides the logits in the teacher's loss.  [default: 4]"
)
@distribute_option
@seed_option
@run_options
@json_option
def command(
    model_name: str,
    dataset_name: str,
    data_dir: str | None,
    limit_train: int | None,
    limit_test: int | None,
    validation: float,
    augment: str | None,
    class_weights: str | None,
    recipe_name: str,
    epochs: int | None,
    batch_size: int | None,
    lr: float | None,
    end_lr: float | None,
    dropout: float | None,
    width: float,
    pad_values: str | None,
    estimator: str | None,
    prelu_gradient: PReLUGradient | None,
    from_real: str | None,
    from_backbone: str | None,
    teacher: str | None,
    distill_weight: float | None,
    temperature: float | None,
    distribute: str | None,
    seed: int,
    out: str,
    resume: bool,
    json_target: str | None,
) -> None:
    """Train a backbone, the network whose filters an ensemble shares.

    Writes a run directory: config.json, model.keras, log.csv, tensorboard/ and checkpoints/. The
    same command with --resume goes on after an interruption, on any number of devices.

    \b
    Examples:
      larq-ensemble pretrain --dataset digits --epochs 20 --out runs/digits
      larq-ensemble pretrain --model resnet20 --dataset cifar100 --recipe short --out runs/backbone
      larq-ensemble pretrain --model birealnet18 --estimator approx_sign --out runs/bireal
      larq-ensemble pretrain --dataset cifar100 --epochs 0 --out runs/untrained

    \b
    Few images: start from a backbone that was trained on many others:
      larq-ensemble pretrain --model deploynet9 --dataset cifar100 --recipe short --out runs/many
      larq-ensemble pretrain --model deploynet9 --dataset cifar10 --limit-train 900
          --recipe small --from-backbone runs/many --out runs/few

    \b
    Binarize a real-valued network in two steps, the second one taught by the first:
      larq-ensemble pretrain --model resnet20_real --dataset cifar100 --out runs/real
      larq-ensemble pretrain --dataset cifar100 --from-real runs/real --teacher runs/real
          --out runs/backbone
    """
    if teacher is None and (distill_weight is not None or temperature is not None):
        raise click.UsageError("--distill-weight and --temperature need --teacher.")
    from larq_ensemble.data.datasets import DATASETS, DataOptions
    from larq_ensemble.runs import load_run
    from larq_ensemble.training.recipes import RECIPES

    with reporting(json_target) as report:
        recipes = RECIPES[recipe_name](DATASETS[dataset_name].classes, model_name)
        recipe = recipes.pretrain.override(
            epochs=epochs, batch_size=batch_size, lr=lr, end_lr=end_lr, dropout=dropout
        )
        recipe = as_begun(recipe, out, resume=resume)
        if not recipe.epochs:
            refuse_options_of_data()
        from larq_ensemble.training.distillation import Distillation
        from larq_ensemble.training.pretrain import pretrain

        chosen = {"weight": distill_weight, "temperature": temperature}
        distillation = (
            None
            if teacher is None
            else Distillation(
                load_run(teacher),
                **{name: value for name, value in chosen.items() if value is not None},
            )
        )
        run, report.result = pretrain(
            model_name,
            dataset_name,
            out,
            recipe=recipe,
            seed=seed,
            width=width,
            pad_values=None if pad_values is None else float(pad_values),
            estimator=estimator,
            prelu_gradient=prelu_gradient,
            data=DataOptions(data_dir, validation, limit_train, limit_test),
            augment=augment,
            class_weights=class_weights,
            from_real=load_run(from_real, kind="backbone") if from_real else None,
            from_backbone=load_run(from_backbone, kind="backbone") if from_backbone else None,
            distillation=distillation,
            distribute=distribute,
            resume=resume,
            verbose=KERAS_VERBOSITY,
        )
        report.table(
            f"{run.path}: {model_name} on {dataset_name}",
            ["epochs", "validation top-1 %", "test top-1 %", "images/s"],
            [[report.result[key] for key in _COLUMNS]],
        )
        if said := report.result.get("advice"):
            report.line(in_options(said, click.get_current_context().command))
        for origin, source in (("from_real", from_real), ("from_backbone", from_backbone)):
            if started := report.result.get(origin):
                report.line(
                    f"Started with {len(started['copied'])} layers of {source}; not with "
                    f"{', '.join(started['not_copied']) or 'none'}."
                )


_COLUMNS = ("epochs", "validation_top1", "test_top1", "images_per_second")
