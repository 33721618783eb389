"""Pretraining of a backbone."""

from __future__ import annotations

import os
from typing import Any

from larq_ensemble.data.class_weights import ClassWeighting, ClassWeights
from larq_ensemble.data.datasets import DATASETS, DataOptions, Dataset, Split, Splits
from larq_ensemble.ensembles.fused_activations import fused_network
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras
from larq_ensemble.models import PRELU_GRADIENT, PReLUGradient, build_model
from larq_ensemble.models.inference import predict_batches
from larq_ensemble.network.architectures import MODELS, REVISION
from larq_ensemble.runs import Run, RunConfig, is_run, load_run, package_versions
from larq_ensemble.runtime.metrics import top_k_accuracy
from larq_ensemble.training.advice import advice
from larq_ensemble.training.distillation import (
    Distillation,
    DistillationLoss,
    Student,
    teacher_logits,
)
from larq_ensemble.training.distribution import Distribution
from larq_ensemble.training.fit import read_log, set_seed
from larq_ensemble.training.job import fit_images, load_splits, train_run
from larq_ensemble.training.memory import temporary_graphs
from larq_ensemble.training.pipeline import evaluation_batches
from larq_ensemble.training.recipes import Recipe
from larq_ensemble.training.transfer import (
    check_backbone,
    check_twin,
    split_seed,
    start_from_backbone,
    start_from_real,
)


@temporary_graphs()
def pretrain(
    model_name: str,
    dataset_name: str,
    out: str | os.PathLike[str],
    *,
    recipe: Recipe,
    seed: int = 0,
    width: float = 1.0,
    pad_values: float | None = None,
    estimator: str | None = None,
    prelu_gradient: PReLUGradient | None = None,
    data: DataOptions = DataOptions(),  # noqa: B008  (frozen)
    augment: str | None = None,
    class_weights: ClassWeights | None = None,
    from_real: Run | None = None,
    from_backbone: Run | None = None,
    distillation: Distillation | None = None,
    distribute: str | None = None,
    resume: bool = False,
    verbose: int | str = "auto",
) -> tuple[Run, dict[str, Any]]:
    """Trains a backbone and writes its run directory.

    Validation accuracy is logged after each epoch. The test split is used once, at the end.

    # Arguments
        model_name: a name of `larq_ensemble.network.architectures.MODELS`.
        dataset_name: a name of `larq_ensemble.data.datasets.DATASETS`.
        out: the run directory.
        recipe: epochs, batch size, rates, dropout; with no epochs the network stays untrained and
            no data are read.
        seed: of weights, validation split, order and augmentation of the images, and dropout.
        width: multiplies the channels of every layer.
        pad_values: what pads binary convolutions, 0 or 1; `None`: the architecture's.
        estimator: name of the quantizer of activations; `None`: the architecture's.
        prelu_gradient: as for `larq_ensemble.models.build_model`; `None`: its default.
        data: place, validation share and limits of the data.
        augment: augmentation of the training images, see
            `larq_ensemble.data.augmentation.Augmentation.of_kind`; `None`: that of the data set.
        class_weights: of the training images in the loss, see
            `larq_ensemble.data.class_weights.ClassWeighting.of`. Validation counts all images
            alike.
        from_real: a run of the real-valued twin, whose weights the network starts from, see
            `larq_ensemble.training.transfer.start_from_real`.
        from_backbone: a run of the same network, of other classes or another image size, whose
            weights all layers but the head start from.
        distillation: a teacher, see `larq_ensemble.training.distillation`.
        distribute: `None`, `"mirrored"` or `"multiworker"`, see
            `larq_ensemble.training.distribution`.
        resume: go on after the last epoch of the run in `out`, or return it if it has finished.
        verbose: Keras's verbosity.

    # Returns
        The run and `{"test_top1", "validation_top1", "epochs", "images_per_second"}`. Accuracies
        are in percent, and `None` where nothing was evaluated (`epochs=0`). With `from_real` also
        `"from_real"`: `{"copied", "not_copied"}`, names of layers; so with `from_backbone`. After
        a training also `"training_top1"`, the accuracy in its last epoch, on augmented images, and
        `"advice"` if there is any, see `larq_ensemble.training.advice`.

    # Raises
        EnsembleError: for unknown names, unusable values, missing data, runs that do not fit, or a
            directory that holds another run or other files.
    """
    distribution = Distribution(distribute)
    dataset = DATASETS[dataset_name].augmented(augment)
    weighting = ClassWeighting.of(class_weights, dataset.class_names)
    started = load_run(out).config.model if resume and is_run(out) else {}
    _refuse_without_effect(model_name, pad_values=pad_values, estimator=estimator)
    set_seed(seed, recipe.dropout)
    arguments: dict[str, Any] = {
        "name": model_name,
        "input_shape": list(dataset.input_shape),
        "classes": dataset.classes,
        "width": width,
        "dropout": recipe.dropout,
        "pad_values": MODELS[model_name].pad_values if pad_values is None else pad_values,
        "estimator": estimator,
        "prelu_gradient": prelu_gradient or started.get("prelu_gradient", PRELU_GRADIENT),
        "revision": started.get("revision", REVISION),
    }
    sources: dict[str, Run] = {}
    transfer: dict[str, Any] = {}
    if from_real is not None and from_backbone is not None:
        raise EnsembleError(
            "`from_real` and `from_backbone` both say which weights to start from: give one."
        )
    if from_backbone is not None:
        check_backbone(from_backbone, arguments)
        sources["from_backbone"] = from_backbone
    if from_real is not None:
        check_twin(from_real, arguments)
        sources["from_real"] = from_real
    if distillation is not None:
        distillation.check_teaches(arguments)
        sources["teacher"] = distillation.teacher
        transfer = {"weight": distillation.weight, "temperature": distillation.temperature}
    transfer |= {name: source.digest for name, source in sources.items()}
    model = build_model(**arguments)
    cut_by = split_seed(sources.values(), dataset_name, data, seed)
    figures: dict[str, Any] = dict.fromkeys(("test_top1", "validation_top1", "images_per_second"))
    if from_backbone is not None:
        figures["from_backbone"] = start_from_backbone(model, from_backbone.model)
    if from_real is not None:
        figures["from_real"] = start_from_real(model, from_real.model)

    def objective(network: keras.Model) -> tuple[keras.Model, dict[str, Any]]:
        network = fused_network(network)
        loss: keras.losses.Loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if distillation is not None:
            teacher = distribution.replicate(distillation.teacher.model)
            network = Student(network, teacher_logits(teacher))
            loss = DistillationLoss(distillation.weight, distillation.temperature)
        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        return network, {"loss": loss, "metrics": [accuracy]}

    def train(run: Run, splits: Splits) -> tuple[keras.Model, dict[str, Any]]:
        speed = fit_images(
            model,
            splits,
            dataset,
            run=run,
            recipe=recipe,
            objective=objective,
            seed=seed,
            distribution=distribution,
            verbose=verbose,
            class_weights=weighting.by_class(splits.train.labels),
        )
        measured: dict[str, Any] = {
            "images_per_second": speed,
            "test_top1": backbone_top1(model, splits.test, dataset),
            "validation_top1": backbone_top1(model, splits.validation, dataset),
            "training_top1": _training_top1(run),
        }
        held_out = "validation" if len(splits.validation) else "test"
        if (top1 := measured[f"{held_out}_top1"]) is not None:
            labels = getattr(splits, held_out).labels
            if said := advice(measured["training_top1"], top1, labels):
                measured["advice"] = said
        return model, measured

    return train_run(
        out,
        RunConfig(
            kind="backbone",
            model=arguments,
            dataset=dataset.constants(),
            recipe=recipe.to_json(),
            seed=seed,
            data={
                **data.to_json(),
                **({"split_seed": cut_by} if sources else {}),
                **weighting.to_json(),
            },
            transfer=transfer,
            versions=package_versions(),
        ),
        untrained=lambda: model,
        load=lambda: load_splits(data, dataset, cut_by, weighting),
        train=train,
        figures=figures,
        distribution=distribution,
        resume=resume,
    )


def _refuse_without_effect(model_name: str, **of_binary: Any) -> None:
    """Refuses arguments that are about binary convolutions for a network without."""
    for name, value in of_binary.items():
        if value is not None and not MODELS[model_name].binary:
            raise EnsembleError(
                f"`{name}` {value!r} is for binary convolutions, and {model_name!r} has none: "
                "leave it out."
            )


def _training_top1(run: Run) -> float:
    """Accuracy during the last epoch, on augmented images, in percent."""
    header, *rows = read_log(run.log_path)
    return 100 * float(rows[-1][header.index("accuracy")])


def backbone_top1(model: keras.Model, data: Split, dataset: Dataset) -> float | None:
    """Top-1 accuracy of a single network, in percent; `None` without data."""
    if not len(data):
        return None
    batches = evaluation_batches(data, dataset)
    (logits,) = predict_batches(model, batches, images=len(data), what="evaluating")
    return top_k_accuracy(logits, data.labels, k=1)
