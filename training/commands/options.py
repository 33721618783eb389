"""Options that several training commands share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from larq_ensemble.console.messages import in_options
from larq_ensemble.console.options import (
    INPUT,
    LIMITED,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SHARE_BELOW_1,
    ImageSize,
    OutputFolder,
    data_dir_option,
    limit_test_option,
)
from larq_ensemble.data.augmentation import AUGMENTATIONS

if TYPE_CHECKING:
    from larq_ensemble.console.reporting import Report
    from larq_ensemble.data.datasets import Dataset
    from larq_ensemble.trained import Trained
    from larq_ensemble.training.distillation import Distillation
    from larq_ensemble.training.recipes import Recipe

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _all(*decorators: Decorator) -> Decorator:
    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


data_options = _all(
    data_dir_option,
    click.option(
        "--limit-train", type=click.IntRange(2), metavar="N", help="Only N training images."
    ),
    limit_test_option,
)

image_options = _all(
    click.option(
        "--image-size",
        type=ImageSize(),
        help="Of data of your own: crop and resize all images to it  [default: their size]",
    ),
    click.option(
        "--color",
        type=click.Choice(["grey", "rgb"]),
        help="Of data of your own  [default: grey if all images are, else rgb]",
    ),
    click.option(
        "--skip-damaged",
        is_flag=True,
        help="Leave out image files that can't be read. Without it they are an error.",
    ),
    click.option(
        "--test-share",
        type=SHARE_BELOW_1,
        default=0.2,
        show_default=True,
        help="Share of data of your own held out for testing, if they have no test split; the same "
        "images for every --seed.",
    ),
)

split_options = _all(
    click.option(
        "--split",
        type=click.Choice(["test", "validation"]),
        default="test",
        show_default=True,
        help="validation to compare runs and settings, test for the final figure.",
    ),
    data_dir_option,
    click.option(
        "--limit-test",
        type=click.IntRange(1),
        metavar="N",
        help=f"Only some images of the split: {LIMITED}.",
    ),
)


def training_data_options(augmentation: str, class_weights: str) -> Decorator:
    """How training images are augmented and weighed.

    # Arguments
        augmentation, class_weights: what applies without the options, for `--help`.
    """
    return _all(
        click.option(
            "--augment",
            type=click.Choice(AUGMENTATIONS),
            help="Random changes of the training images: none; flip (mirrored); crop (moved); rand "
            "(both, turned, zoomed, brightness, contrast); mix (rand and mixup). Don't mirror "
            f"digits and letters.  [default: {augmentation}]",
        ),
        click.option(
            "--class-weights",
            type=click.Choice(["none", "balanced"]),
            help="balanced: all classes count alike in the loss, however many images they have.  "
            f"[default: {class_weights}]",
        ),
    )


batch_size_option = click.option(
    "--batch-size", type=click.IntRange(1, 2**31 - 1), help="Images a step."
)

recipe_options = _all(
    click.option(
        "--recipe",
        "recipe_name",
        help="paper (Kim et al. 2022), short (2 CPU cores), small (few images: epochs by their "
        "number), or for train a file that tune wrote. The options below override its values.  "
        "[default: paper; for data of your own small]",
    ),
    click.option(
        "--epochs", type=click.IntRange(0), help="0: an untrained run, which reads no data."
    ),
    batch_size_option,
    click.option("--lr", type=NOT_NEGATIVE, help="Learning rate at the first step."),
    click.option("--end-lr", type=NOT_NEGATIVE, help="Learning rate after the last step."),
    click.option("--dropout", type=SHARE_BELOW_1, help="Rate before the linear layer."),
    click.option(
        "--label-smoothing",
        type=SHARE_BELOW_1,
        metavar="S",
        help="Labels count 1 - S, and all classes share S  [default: 0]",
    ),
    click.option(
        "--warmup-epochs",
        type=NOT_NEGATIVE,
        metavar="E",
        help="The learning rate rises to --lr in so many epochs, such as 0.5  [default: 0]",
    ),
    click.option(
        "--weight-decay",
        type=NOT_NEGATIVE,
        metavar="W",
        help="A step makes real-valued filters smaller by the W-th part of the learning rate, such "
        "as 0.05; the latent weights of binary ones stay (AdamW)  [default: 0]",
    ),
)

run_options = _all(
    click.option(
        "--out",
        type=OutputFolder(),
        required=True,
        metavar="RUN",
        help="The run directory to write. Nothing is overwritten.",
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Go on after the last finished epoch of the run in --out, if there is one.",
    ),
)

teacher_options = _all(
    click.option(
        "--teacher",
        type=INPUT,
        metavar="RUN|NAME",
        help="Also learn from the logits of this run, of the same classes and image shape "
        "(knowledge distillation).",
    ),
    click.option(
        "--distill-weight",
        type=SHARE,
        help="Share of the teacher in the loss, 0 to 1; the rest is the labels'.  [default: 0.9]",
    ),
    click.option(
        "--temperature",
        type=POSITIVE,
        help="Divides the logits in the teacher's loss.  [default: 4]",
    ),
)

distribute_option = click.option(
    "--distribute",
    metavar="STRATEGY",
    help="mirrored (all GPUs of this host) or multiworker (start the same command on every host of "
    "TF_CONFIG, with an --out that they share). --batch-size counts the images of all devices.  "
    "[default: one device]",
)

jax_option = click.option(
    "--jax",
    type=OutputFolder(),
    metavar="DIR",
    help="Train on another machine, which has JAX but no TensorFlow: the first call writes the "
    "training to DIR and ends. Run DIR/run.py there, bring DIR/checkpoint.npz back, and repeat the "
    "command with --resume.",
)


@contextlib.contextmanager
def training_under_jax(report: Report, folder: str | None) -> Iterator[None]:
    """As `--jax` says: the block ends when the training within it has been exported."""
    if folder is None:
        yield
        return
    from larq_ensemble.training.under_jax import Exported, under_jax

    try:
        with under_jax(folder):
            yield
    except Exported as exported:
        report.line(in_options(str(exported), click.get_current_context().command))
        report.result = {"exported": folder}


def opened_dataset(
    spec: str,
    data_dir: str | None,
    image_size: tuple[int, int] | None,
    color: str | None,
    skip_damaged: bool,
    test_share: float,
) -> Dataset:
    """The data set that the options of `pretrain` name."""
    from larq_ensemble.data.opening import open_dataset
    from larq_ensemble.data.options import ImageOptions

    images = ImageOptions(
        image_size=image_size,
        channels=None if color is None else 1 if color == "grey" else 3,
        damaged="skip" if skip_damaged else "refuse",
        test_share=test_share,
    )
    return open_dataset(spec, images=images, data_dir=data_dir)


def print_data(
    report: Report, dataset: Dataset, counts: dict[str, list[int]], *, is_weighted: bool
) -> None:
    """Prints how many images of each class there are, by split.

    # Arguments
        is_weighted: whether class weights make up for classes of different sizes.
    """
    from larq_ensemble.data.splits import imbalance

    height, width, channels = dataset.input_shape
    report.table(
        f"{dataset.name}, images of {height}x{width}, {channels} channel{'s'[: channels > 1]}",
        ["class", *counts],
        [
            *([name, *row] for name, row in zip(dataset.class_names, zip(*counts.values()))),
            ["all", *map(sum, counts.values())],
        ],
    )
    if missing := counts["train"].count(0):
        report.line(
            f"Classes without training images: {missing} of {len(counts['train'])}. The network "
            "can't learn them."
        )
    elif (times := imbalance(counts["train"])) > _IMBALANCED and not is_weighted:
        report.line(
            f"The largest class has {times:.1f} times as many training images as the smallest: "
            "with --class-weights balanced all classes count alike."
        )


#: From what ratio of the largest class to the smallest on something should be done.
_IMBALANCED = 3.0


def as_begun(recipe: Recipe, out: str, *, resume: bool) -> Recipe:
    """The recipe for the run in `out`: one that is resumed goes on as it began.

    So a run of before stays with what its recipe was when there was no other.
    """
    from larq_ensemble.files import is_run
    from larq_ensemble.runs import load_run

    if not resume or not is_run(out):
        return recipe
    return recipe.as_begun(load_run(out).config.recipe)


def refuse_options_of_data(dataset: str) -> None:
    """Refuses the options of data for a run of 0 epochs, which reads none of built-in data.

    Of data of one's own even such a run needs the classes and the size of the images.

    # Arguments
        dataset: name of the data set.
    """
    if ":" in dataset:
        return
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if given and parameter.name in _OF_DATA:
            raise click.UsageError(
                f"{parameter.opts[0]} has no effect: a run of 0 epochs reads no data. Leave it out."
            )


_OF_DATA = ("data_dir", "limit_test", "limit_train", "augment", "class_weights", "jax")


def check_teacher_options(
    teacher: str | None, weight: float | None, temperature: float | None
) -> None:
    """Refuses the options of `teacher_options` that have no effect."""
    if teacher is None and (weight is not None or temperature is not None):
        raise click.UsageError("--distill-weight and --temperature need --teacher.")


def distillation_by(
    teacher: str | None, weight: float | None, temperature: float | None
) -> Distillation | None:
    """The teacher with those hyperparameters that are given."""
    if teacher is None:
        return None
    from larq_ensemble.training.distillation import Distillation

    given = {"weight": weight, "temperature": temperature}
    return Distillation(
        run_of(teacher), **{name: value for name, value in given.items() if value is not None}
    )


def run_of(path: str, kind: str | None = None) -> Trained:
    """A run, or a network of the package. Networks of Keras files are given as `model`."""
    from larq_ensemble.errors import EnsembleError
    from larq_ensemble.files import is_run
    from larq_ensemble.pretrained.catalog import found, or_a_name
    from larq_ensemble.runs import load_run
    from larq_ensemble.trained import is_keras_file, open_trained

    if is_keras_file(path):
        folder = os.path.dirname(path) or "."
        way_out = (
            f"give {folder!r}, its run."
            if is_run(folder)
            else "`pretrain` with it as `model` and 0 `epochs` makes one."
        )
        raise EnsembleError(f"{path!r} is a Keras file, and this needs a run: {way_out}")
    return (
        load_run(path, kind, also=or_a_name()) if found(path) is None else open_trained(path, kind)
    )
