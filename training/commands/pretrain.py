"""`larq-ensemble pretrain`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from larq_ensemble.console.messages import Command, in_options
from larq_ensemble.console.options import (
    INPUT,
    SHARE_BELOW_1,
    SPECS,
    WIDTH,
    normalization_option,
    seed_option,
)
from larq_ensemble.console.reporting import KERAS_VERBOSITY, json_option, reporting
from larq_ensemble.network.commands.options import NAMES
from larq_ensemble.training.commands.options import (
    as_begun,
    check_teacher_options,
    data_options,
    distillation_by,
    distribute_option,
    image_options,
    jax_option,
    opened_dataset,
    print_data,
    recipe_options,
    refuse_options_of_data,
    run_of,
    run_options,
    teacher_options,
    training_data_options,
    training_under_jax,
)

if TYPE_CHECKING:
    from larq_ensemble.console.reporting import Report
    from larq_ensemble.data.datasets import Splits
    from larq_ensemble.models import Binarize, PReLUGradient


@click.command(
    "pretrain",
    cls=Command,
    arguments={"weight": "distill_weight", "channels": "color", "damaged": "skip_damaged"},
    short_help="Train a backbone.",
)
@click.option(
    "--model",
    "model_name",
    metavar="MODEL",
    help=f"{NAMES}; or a network of yours: FILE.keras, FILE.h5 or module:function.  "
    "[default: that of --from-backbone or --from-real; else resnet20, for data of your own "
    "deploynet9]",
)
@normalization_option
@click.option(
    "--dataset",
    "dataset_name",
    default="digits",
    show_default=True,
    metavar="SPEC",
    help=f"{SPECS}: folders of images by class, arrays of NumPy, or image classification of "
    "TensorFlow Datasets.",
)
@image_options
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
@click.option(
    "--width",
    type=WIDTH,
    help="Multiplies channels  [default: as where it starts from, else 1.0]",
)
@click.option(
    "--pad-values",
    type=click.Choice(["0", "1"]),
    help="Padding of binary convolutions  [default: as where it starts from; else 0, as the paper, "
    "and 1 in DeployNets]",
)
@click.option(
    "--estimator",
    type=click.Choice(["ste_sign", "approx_sign"]),
    help="Gradient of the sign of activations  [default: ste_sign, as the paper; approx_sign in "
    "reactnet10, which has no other]",
)
@click.option(
    "--binarize",
    type=click.Choice(["all", "activations"]),
    default="all",
    show_default=True,
    help="activations: real-valued filters behind binary activations, the first of two stages; the "
    "second starts from it by --from-real.",
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
    help="Start from the weights of this run of the real-valued twin, or of the first stage "
    "(--binarize activations); those to be binarized are clipped to [-1, 1].",
)
@click.option(
    "--from-backbone",
    type=INPUT,
    metavar="RUN|NAME",
    help="Start from the weights of this run of the same network, trained on other classes or "
    "another image size; the linear layer starts anew (transfer learning).",
)
@teacher_options
@distribute_option
@click.option(
    "--bfloat16",
    is_flag=True,
    help="Compute convolutions of 16 channels and more in bfloat16, for CPUs with AVX512_BF16 or "
    "AMX, where it is 1.1 (resnet20) to 1.7 times (deploynet8 with AMX) as fast.",
)
@jax_option
@seed_option
@run_options
@json_option
def command(
    model_name: str | None,
    normalization: str | None,
    dataset_name: str,
    image_size: tuple[int, int] | None,
    color: str | None,
    skip_damaged: bool,
    test_share: float,
    data_dir: str | None,
    limit_train: int | None,
    limit_test: int | None,
    validation: float,
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
    width: float | None,
    pad_values: str | None,
    estimator: str | None,
    binarize: Binarize,
    prelu_gradient: PReLUGradient | None,
    from_real: str | None,
    from_backbone: str | None,
    teacher: str | None,
    distill_weight: float | None,
    temperature: float | None,
    distribute: str | None,
    bfloat16: bool,
    jax: str | None,
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
    Your photos (in a folder for each class), your network:
      larq-ensemble pretrain --dataset folder:photos --image-size 64x64 --out runs/photos
      larq-ensemble pretrain --model networks:small --dataset npz:images.npz --out runs/small
      larq-ensemble pretrain --model trained.keras --normalization 0..1 --dataset folder:photos
          --epochs 0 --out runs/trained

    networks:small is a function small() or small(input_shape, classes) in networks.py that returns
    a Keras model; its layers are trained. So are those of a Keras file, from the weights it holds.

    \b
    Few images: start from a backbone that was trained on many others:
      larq-ensemble pretrain --model deploynet9 --dataset cifar100 --recipe short --out runs/many
      larq-ensemble pretrain --dataset folder:photos --image-size 64x64
          --from-backbone runs/many --out runs/few
      larq-ensemble pretrain --dataset folder:photos --image-size 64x64
          --from-backbone cifar100-deploynet8-nested8 --out runs/few

    \b
    Binarize a real-valued network in two steps, the second one taught by the first:
      larq-ensemble pretrain --model resnet20_real --dataset cifar100 --out runs/real
      larq-ensemble pretrain --dataset cifar100 --from-real runs/real --teacher runs/real
          --out runs/backbone

    \b
    Activations first, filters second:
      larq-ensemble pretrain --dataset cifar100 --binarize activations --out runs/stage1
      larq-ensemble pretrain --dataset cifar100 --from-real runs/stage1 --lr 1e-3 --out runs/stage2
    """
    check_teacher_options(teacher, distill_weight, temperature)
    from larq_ensemble.data.datasets import DataOptions
    from larq_ensemble.errors import EnsembleError
    from larq_ensemble.network.architectures import MODELS
    from larq_ensemble.training.recipes import RECIPES, recipes_for
    from larq_ensemble.training.transfer import started_network

    with reporting(json_target) as report, training_under_jax(report, jax):
        # A wrong name is an error before the data are read.
        if recipe_name is not None:
            RECIPES[recipe_name]
        if model_name is not None and model_name not in MODELS:
            from larq_ensemble.models.foreign import is_foreign

            is_foreign(model_name)
        dataset = opened_dataset(
            dataset_name, data_dir, image_size, color, skip_damaged, test_share
        )
        real = run_of(from_real, "backbone") if from_real else None
        backbone = run_of(from_backbone, "backbone") if from_backbone else None
        of_start = started_network(real, backbone)
        if model_name is None:
            if of_start.name is None and (source := from_backbone or from_real):
                raise EnsembleError(
                    f"{source!r} is of a network of yours: give that as `model`, too."
                )
            model_name = of_start.name or ("resnet20" if dataset.origin is None else "deploynet9")
        if width is None:
            width = of_start.width if model_name in MODELS else 1.0
        padding = None if pad_values is None else float(pad_values)
        if padding is None and model_name in MODELS and MODELS[model_name].binary:
            padding = of_start.pad_values
        data = DataOptions(data_dir, validation, limit_train, limit_test)
        recipes = recipes_for(
            dataset.constants(),
            recipe_name,
            model_name=model_name if model_name in MODELS else None,
            images=(lambda: data.training_images(dataset)) if epochs is None else None,
        )
        recipe = recipes.pretrain.override(
            epochs=epochs, batch_size=batch_size, lr=lr, end_lr=end_lr, dropout=dropout,
            label_smoothing=label_smoothing, warmup_epochs=warmup_epochs,
            weight_decay=weight_decay,
        )  # fmt: skip
        recipe = as_begun(recipe, out, resume=resume)
        if not recipe.epochs:
            refuse_options_of_data(dataset.name)
        from larq_ensemble.training.pretrain import pretrain

        counts: dict[str, list[int]] = {}

        def show(splits: Splits) -> None:
            if dataset.origin is not None:
                counts.update(splits.counts(dataset.classes))
                print_data(report, dataset, counts, is_weighted=class_weights == "balanced")

        run, result = pretrain(
            model_name,
            dataset,
            out,
            recipe=recipe,
            seed=seed,
            width=width,
            pad_values=padding,
            estimator=estimator,
            binarize=binarize,
            prelu_gradient=prelu_gradient,
            normalization=normalization,
            data=data,
            augment=augment,
            class_weights=class_weights,
            from_real=real,
            from_backbone=backbone,
            distillation=distillation_by(teacher, distill_weight, temperature),
            distribute=distribute,
            bfloat16=bfloat16,
            resume=resume,
            verbose=KERAS_VERBOSITY,
            on_data=show,
        )
        report.result = {**result, **({"class_counts": counts} if counts else {})}
        _print(
            report,
            f"{run.path}: {model_name} on {dataset.name}",
            model_name,
            {"from_real": from_real, "from_backbone": from_backbone},
        )


_COLUMNS = ("epochs", "validation_top1", "test_top1", "images_per_second")


def _print(report: Report, title: str, model_name: str, sources: dict[str, str | None]) -> None:
    """Prints the result, what to do about it, and what the network started from."""
    from larq_ensemble.models.foreign import is_file

    report.table(
        title,
        ["epochs", "validation top-1 %", "test top-1 %", "images/s"],
        [[report.result[key] for key in _COLUMNS]],
    )
    if is_file(model_name):
        report.line(f"Started with the weights in {model_name}.")
    if said := report.result.get("advice"):
        report.line(in_options(said, click.get_current_context().command))
    for origin, source in sources.items():
        if started := report.result.get(origin):
            own = started["not_copied"]
            report.line(
                f"Started with the weights of {len(started['copied'])} layers of {source}"
                + (f"; not from there: {', '.join(own)}." if own else ", all.")
            )
