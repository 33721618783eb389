"""Pretraining of a backbone."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from larq_ensemble.ensemble import copy_weights
from larq_ensemble.keras import keras
from larq_ensemble.metrics import top_k_accuracy
from larq_ensemble.models import build_model
from larq_ensemble.runs import Run, RunConfig, package_versions
from training.datasets import DATASETS, DataOptions, Dataset, Split
from training.distillation import Distillation, DistillationLoss, Student, teacher_logits
from training.distribution import Distribution
from training.fit import adam, fit, set_seed
from training.pipeline import evaluation_batches, training_batches
from training.recipes import Recipe
from training.transfer import check_twin, split_seed, start_from_real


def pretrain(
    model_name: str,
    dataset_name: str,
    out: str | os.PathLike[str],
    *,
    recipe: Recipe,
    seed: int = 0,
    width: float = 1.0,
    pad_values: float = 0.0,
    estimator: str | None = None,
    data: DataOptions = DataOptions(),  # noqa: B008  (frozen)
    from_real: Run | None = None,
    distillation: Distillation | None = None,
    distribute: str | None = None,
    resume: bool = False,
    verbose: int | str = "auto",
) -> tuple[Run, dict[str, Any]]:
    """Trains a backbone and writes its run directory; with `resume` returns a finished one.

    Validation accuracy is logged after each epoch; the test split is used once, at the end.

    # Arguments
        from_real: a run of the real-valued twin, whose weights the network starts from, see
            `training.transfer.start_from_real`.
        distillation: the run that teaches it, see `training.distillation`.
        distribute: see `training.distribution`.

    # Returns
        The run and `{"test_top1", "validation_top1", "epochs", "images_per_second"}`; accuracies
        in percent, `None` where nothing was evaluated (`epochs=0`). With `from_real` also
        `"from_real"`: `{"copied", "not_copied"}`, names of layers.

    # Raises
        EnsembleError: for unknown names, unusable values, missing data, runs that do not fit or a
            taken directory.
    """
    distribution = Distribution(distribute)
    dataset = DATASETS[dataset_name]
    set_seed(seed, recipe.dropout)
    arguments: dict[str, Any] = {
        "name": model_name,
        "input_shape": list(dataset.input_shape),
        "classes": dataset.classes,
        "width": width,
        "dropout": recipe.dropout,
        "pad_values": pad_values,
        "estimator": estimator,
    }
    sources: dict[str, Run] = {}
    transfer: dict[str, Any] = {}
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
    run = distribution.create_run(
        out,
        RunConfig(
            kind="backbone",
            model=arguments,
            dataset=dataset.constants(),
            recipe=recipe.to_json(),
            seed=seed,
            data={**data.to_json(), **({"split_seed": cut_by} if sources else {})},
            transfer=transfer,
            versions=package_versions(),
        ),
        resume=resume,
    )
    if (finished := run.finished_result()) is not None:
        return run, finished
    result: dict[str, Any] = {
        "test_top1": None,
        "validation_top1": None,
        "epochs": recipe.epochs,
        "images_per_second": None,
    }
    if from_real is not None:
        result["from_real"] = start_from_real(model, from_real.model)
    if recipe.epochs:
        splits = data.load(dataset, cut_by)
        batch_size = min(recipe.batch_size, len(splits.train))
        trained = replicated = distribution.replicate(model)
        loss: keras.losses.Loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        with distribution.scope():
            if distillation is not None:
                teacher = distribution.replicate(distillation.teacher.model)
                trained = Student(replicated, teacher_logits(teacher))
                loss = DistillationLoss(distillation.weight, distillation.temperature)
            trained.compile(
                adam(recipe, steps_per_epoch=len(splits.train) // batch_size),
                loss=loss,
                metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
            )
        timing = fit(
            trained,
            lambda initial_epoch: training_batches(
                splits.train,
                dataset,
                batch_size=batch_size,
                epochs=recipe.epochs,
                initial_epoch=initial_epoch,
                seed=seed,
            ),
            evaluation_batches(splits.validation, dataset) if len(splits.validation) else None,
            run=run,
            epochs=recipe.epochs,
            distribution=distribution,
            verbose=verbose,
        )
        if replicated is not model:
            copy_weights(replicated, model)
        if timing["steps_per_second"]:
            result["images_per_second"] = timing["steps_per_second"] * batch_size
        result["test_top1"] = backbone_top1(model, splits.test, dataset)
        if len(splits.validation):
            result["validation_top1"] = backbone_top1(model, splits.validation, dataset)
    if distribution.chief:
        run.save_model(model)
        run.save_result(result)
    return run, result


def backbone_top1(model: keras.Model, data: Split, dataset: Dataset) -> float:
    """Top-1 accuracy of a single network, in percent."""
    logits = model.predict(evaluation_batches(data, dataset), verbose=0)
    return top_k_accuracy(np.asarray(logits), data.labels, k=1)
