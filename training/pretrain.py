"""Pretraining of a backbone."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from larq_ensemble.data.class_weights import ClassWeighting, ClassWeights
from larq_ensemble.data.datasets import DataOptions, Dataset, Split, Splits
from larq_ensemble.data.normalization import Normalization
from larq_ensemble.data.opening import open_dataset
from larq_ensemble.ensembles.bfloat16 import check_bfloat16
from larq_ensemble.ensembles.fused_models import fused_network
from larq_ensemble.ensembles.labels import CrossEntropy
from larq_ensemble.errors import EnsembleError, check_seed
from larq_ensemble.files import is_run
from larq_ensemble.keras import keras
from larq_ensemble.models import Binarize, PReLUGradient
from larq_ensemble.models.foreign import is_file, is_foreign
from larq_ensemble.models.inference import predict_batches
from larq_ensemble.runs import Run, RunConfig, load_run, package_versions
from larq_ensemble.runtime.metrics import top_k_accuracy
from larq_ensemble.trained import Trained, normalization_for
from larq_ensemble.training.advice import advice
from larq_ensemble.training.distillation import (
    Distillation,
    DistillationLoss,
    Student,
    teacher_logits,
)
from larq_ensemble.training.distribution import Distribution
from larq_ensemble.training.fit import generators_as_before, read_log, set_seed
from larq_ensemble.training.job import fit_images, load_splits, train_run
from larq_ensemble.training.memory import temporary_graphs
from larq_ensemble.training.networks import Variant, network_for
from larq_ensemble.training.pipeline import evaluation_batches
from larq_ensemble.training.recipes import Recipe
from larq_ensemble.training.renaming import formerly
from larq_ensemble.training.transfer import Sources
from larq_ensemble.training.transfer import split_seed as split_seed_of


@formerly(model_name="model", dataset_name="dataset")
@temporary_graphs()
@generators_as_before()
def pretrain(
    model: str | keras.Model,
    dataset: str | Dataset,
    out: str | os.PathLike[str],
    *,
    recipe: Recipe,
    seed: int = 0,
    width: float = 1.0,
    pad_values: float | None = None,
    estimator: str | None = None,
    binarize: Binarize = "all",
    prelu_gradient: PReLUGradient | None = None,
    normalization: str | None = None,
    data: DataOptions = DataOptions(),  # noqa: B008  (frozen)
    augment: str | None = None,
    class_weights: ClassWeights | None = None,
    from_real: Trained | None = None,
    from_backbone: Trained | None = None,
    distillation: Distillation | None = None,
    split_seed: int | None = None,
    distribute: str | None = None,
    bfloat16: bool = False,
    resume: bool = False,
    verbose: int | str = "auto",
    on_data: Callable[[Splits], None] = lambda splits: None,
) -> tuple[Run, dict[str, Any]]:
    """Trains a backbone and writes its run directory.

    Validation accuracy is logged after each epoch. The test split is used once, at the end.

    # Arguments
        model: a name of `larq_ensemble.network.architectures.MODELS`, or another network, see
            `larq_ensemble.models.foreign.foreign_network`: a Keras model, whose layers are
            trained, the path of a Keras file, whose weights are the start, or
            `"module:function"`.
        dataset: a data set, or what `larq_ensemble.data.opening.open_dataset` takes.
        out: the run directory.
        recipe: epochs, batch size, rates, dropout; with no epochs the network stays untrained and
            no data are read.
        seed: of weights, validation split, order and augmentation of the images, and dropout.
        width: multiplies the channels of every layer.
        pad_values: what pads binary convolutions, 0 or 1; `None`: the architecture's.
        estimator: name of the quantizer of activations; `None`: the architecture's.
        binarize: `"all"`, or `"activations"` for the first of two stages, whose run is `from_real`
            of the second.
        prelu_gradient: as for `larq_ensemble.models.build_model`; `None`: its default.
        normalization: as `larq_ensemble.data.normalization.normalization_named` takes it; `None`:
            that of the data set. A Keras file needs it, because its weights are trained for one.
        data: place, validation share and limits of the data.
        augment: augmentation of the training images, see
            `larq_ensemble.data.augmentation.Augmentation.of_kind`; `None`: that of the data set.
        class_weights: of the training images in the loss, see
            `larq_ensemble.data.class_weights.ClassWeighting.of`. Validation counts all images
            alike.
        from_real: a run of the real-valued twin, or of the same network with
            `binarize="activations"`, whose weights the network starts from, see
            `larq_ensemble.training.transfer.start_from_real`.
        from_backbone: a run of the same network, of other classes or another image size, whose
            weights all layers but the head start from.
        distillation: a teacher, see `larq_ensemble.training.distillation`.
        split_seed: of the validation split, so that trainings of several seeds are compared on the
            same images; `None`: that of the runs that it learns from, else `seed`.
        distribute: `None`, `"mirrored"` or `"multiworker"`, see
            `larq_ensemble.training.distribution`.
        bfloat16: train with convolutions in bfloat16, see `larq_ensemble.ensembles.bfloat16`.
        resume: go on after the last epoch of the run in `out`, or return it if it has finished.
        verbose: Keras's verbosity.
        on_data: called with the data before the training.

    # Returns
        The run and `{"test_top1", "validation_top1", "epochs", "images_per_second"}`. Accuracies
        are in percent, and `None` where nothing was evaluated (`epochs=0`). With `from_real` also
        `"from_real"`: `{"copied", "not_copied"}`, names of layers; so with `from_backbone`. After
        a training also `"training_top1"`, the accuracy in its last epoch, on augmented images
        (`None` if `log.csv` has lost it), and `"advice"` if there is any, see
        `larq_ensemble.training.advice`.

    # Raises
        EnsembleError: for unknown names, unusable values, missing data, runs that do not fit, or a
            directory that holds another run or other files.
    """
    distribution = Distribution(distribute)
    if distillation is not None:
        distillation.check_smoothing(recipe.label_smoothing)
    sources = Sources(from_real, from_backbone, distillation)
    started = load_run(out).config.model if resume and is_run(out) else {}
    is_foreign(model)  # a wrong name is an error before the data are read
    if isinstance(dataset, str):
        dataset = open_dataset(dataset, data_dir=data.data_dir)
    dataset = dataset.augmented(augment)
    weighting = ClassWeighting.of(class_weights, dataset.class_names)
    set_seed(seed, recipe.dropout)
    variant = Variant(width, pad_values, estimator, binarize, prelu_gradient)
    network, record = network_for(model, dataset, recipe, variant, started)
    if bfloat16:
        check_bfloat16(network)
    dataset = replace(dataset, normalization=_normalization(network, model, normalization, dataset))
    sources.check(record)
    if distillation is not None:
        distillation.check_sees(dataset.normalization)
    cut_by = seed if split_seed is None else check_seed(split_seed)
    of_sources = split_seed_of(sources.runs.values(), dataset, data, cut_by)
    if split_seed is not None and of_sources != split_seed:
        raise EnsembleError(
            f"`split_seed` {split_seed} would hold out images that runs were trained on which this "
            f"one learns from: it must be theirs, {of_sources}."
        )
    cut_by = of_sources
    training = _Training(
        network, dataset, weighting, recipe, seed, distillation, distribution, bfloat16, verbose
    )

    def load() -> Splits:
        splits = load_splits(data, dataset, cut_by, weighting)
        on_data(splits)
        return splits

    return train_run(
        out,
        RunConfig(
            kind="backbone",
            model=record,
            dataset=dataset.constants(),
            recipe=recipe.to_json(),
            seed=seed,
            data={
                **data.to_json(),
                **({"split_seed": cut_by} if cut_by != seed or sources.runs else {}),
                **weighting.to_json(),
            },
            transfer=sources.to_json(),
            precision="bfloat16" if bfloat16 else "float32",
            versions=package_versions(),
        ),
        untrained=lambda: network,
        load=load,
        train=training,
        figures={
            **dict.fromkeys(("test_top1", "validation_top1", "images_per_second")),
            **sources.start(network),
        },
        distribution=distribution,
        resume=resume,
    )


def _normalization(
    network: keras.Model, model: str | keras.Model, named: str | None, dataset: Dataset
) -> Normalization:
    is_trained = isinstance(model, str) and is_file(model)
    return normalization_for(network, named, dataset, str(model) if is_trained else None)


@dataclass(frozen=True)
class _Training:
    """(run, data) -> the trained network and entries of the result."""

    network: keras.Model
    dataset: Dataset
    weighting: ClassWeighting
    recipe: Recipe
    seed: int
    distillation: Distillation | None
    distribution: Distribution
    bfloat16: bool
    verbose: int | str

    def __call__(self, run: Run, splits: Splits) -> tuple[keras.Model, dict[str, Any]]:
        speed = fit_images(
            self.network,
            splits,
            self.dataset,
            run=run,
            recipe=self.recipe,
            objective=self._objective,
            seed=self.seed,
            distribution=self.distribution,
            verbose=self.verbose,
            class_weights=self.weighting.by_class(splits.train.labels),
        )
        figures: dict[str, Any] = {
            "images_per_second": speed,
            "test_top1": backbone_top1(self.network, splits.test, self.dataset),
            "validation_top1": backbone_top1(self.network, splits.validation, self.dataset),
            "training_top1": _training_top1(run),
        }
        held_out = "validation" if len(splits.validation) else "test"
        if (top1 := figures[f"{held_out}_top1"]) is not None:
            labels = getattr(splits, held_out).labels
            if said := advice(figures["training_top1"], top1, labels):
                figures["advice"] = said
        return self.network, figures

    def _objective(self, network: keras.Model) -> tuple[keras.Model, dict[str, Any]]:
        smoothing = self.recipe.label_smoothing
        fused: keras.Model
        loss: keras.losses.Loss
        if self.distillation is None:
            fused = fused_network(network, bfloat16=self.bfloat16)
            loss = CrossEntropy(from_logits=True, label_smoothing=smoothing)
        else:
            teacher = self.distribution.replicate(self.distillation.teacher.model)
            taught = teacher_logits(teacher, bfloat16=self.bfloat16)
            fused = Student(network, taught, bfloat16=self.bfloat16)
            loss = DistillationLoss(
                self.distillation.weight, self.distillation.temperature, label_smoothing=smoothing
            )
        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        return fused, {"loss": loss, "metrics": [accuracy]}


def _training_top1(run: Run) -> float | None:
    """Accuracy during the last epoch, on augmented images, in percent; `None` if the log lacks it.

    A log may be lost or damaged after the last checkpoint was saved.
    """
    header, *rows = read_log(run.log_path) or [[]]
    last = str(run.config.recipe["epochs"] - 1)
    logged = next((dict(zip(header, row)) for row in rows if row[0] == last), {})
    try:
        return 100 * float(logged["accuracy"])
    except (KeyError, ValueError):
        return None


def backbone_top1(model: keras.Model, data: Split, dataset: Dataset) -> float | None:
    """Top-1 accuracy of a single network, in percent; `None` without data."""
    if not len(data):
        return None
    batches = evaluation_batches(data, dataset)
    (logits,) = predict_batches(model, batches, images=len(data), what="evaluating")
    return top_k_accuracy(logits, data.labels, k=1)
