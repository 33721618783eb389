"""Training of an ensemble from a pretrained run (paper, Algorithm 1)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from larq_ensemble.combine import combine
from larq_ensemble.ensemble import EnsembleView, build_ensemble, compile_arguments, copy_weights
from larq_ensemble.metrics import top_k_accuracy
from larq_ensemble.runs import Run, RunConfig, package_versions
from larq_ensemble.schemes import ENSEMBLE_OUTPUT, SCHEMES
from larq_ensemble.sharing import parse_sharing
from training.datasets import DATASETS, DataOptions
from training.distribution import Distribution
from training.evaluation import member_logits
from training.fit import adam, fit, set_seed
from training.pipeline import evaluation_batches, training_batches
from training.pretrain import backbone_top1
from training.recipes import Recipe


def train_ensemble(
    backbone: Run,
    out: str | os.PathLike[str],
    *,
    members: int,
    scheme: str = "fusion",
    sharing: str = "fusion",
    recipe: Recipe,
    seed: int = 0,
    data: DataOptions = DataOptions(),  # noqa: B008  (frozen)
    independent_data: bool = False,
    prefix_weights: Sequence[float] | None = None,
    distribute: str | None = None,
    resume: bool = False,
    verbose: int | str = "auto",
) -> tuple[Run, dict[str, Any]]:
    """Trains M members that share the backbone's frozen layers and writes their run directory.

    With `resume` it returns a run that has finished as it is.

    # Arguments
        backbone: the pretrained run; its data set and validation split are used.
        members, scheme, sharing: as for `build_ensemble`; `sharing` as text, see `parse_sharing`.
        independent_data: each member its own order and augmentation.
        prefix_weights: for nested fusion, see `larq_ensemble.schemes.NestedFusion`.
        distribute: see `training.distribution`.

    # Returns
        The run and `{"test_top1", "member_top1", "backbone_top1", "validation_top1", "epochs",
        "images_per_second"}`; accuracies in percent, `None` where nothing was evaluated.

    # Raises
        EnsembleError: for unusable values or data, a damaged run, or a taken directory.
    """
    distribution = Distribution(distribute)
    dataset = DATASETS[backbone.config.dataset["name"]]
    set_seed(seed, recipe.dropout)
    arguments: dict[str, Any] = {
        "sharing": parse_sharing(sharing),
        "scheme": scheme,
        "jitter": recipe.jitter,
        "dropout": recipe.dropout,
        "seed": seed,
    }
    model = build_ensemble(backbone.model, members, **arguments)
    trained = (
        build_ensemble(backbone.model, members, independent_inputs=True, **arguments)
        if independent_data
        else model
    )
    compiled = compile_arguments(trained, prefix_weights)
    shared = [layer.name for layer in EnsembleView(model).shared_layers()]
    split_seed = backbone.config.split_seed
    run = distribution.create_run(
        out,
        RunConfig(
            kind="ensemble",
            model=backbone.config.model,
            dataset=backbone.config.dataset,
            recipe=recipe.to_json(),
            seed=seed,
            data={**data.to_json(), "split_seed": split_seed},
            ensemble={
                "members": members,
                "scheme": scheme,
                "sharing": sharing,
                "shared_layers": shared,
                "independent_data": independent_data,
                "prefix_weights": None if prefix_weights is None else [*prefix_weights],
                "backbone": backbone.digest,
            },
            versions=package_versions(),
        ),
        resume=resume,
    )
    if (finished := run.finished_result()) is not None:
        return run, finished
    result: dict[str, Any] = {
        "test_top1": None,
        "member_top1": None,
        "backbone_top1": None,
        "validation_top1": None,
        "epochs": recipe.epochs,
        "images_per_second": None,
    }
    if recipe.epochs:
        splits = data.load(dataset, split_seed)
        inputs = len(trained.inputs)
        batch_size = min(recipe.batch_size, len(splits.train))
        trained = distribution.replicate(trained)
        with distribution.scope():
            trained.compile(
                adam(recipe, steps_per_epoch=len(splits.train) // batch_size),
                # Once more: what a metric counts has to be made in this scope.
                **compile_arguments(trained, prefix_weights),
            )
        chosen = SCHEMES[scheme]
        if prefix_weights is not None:
            chosen = chosen.with_prefix_weights(prefix_weights)
        sample_weights = chosen.sample_weights(members, len(splits.train), seed)
        outputs = tuple(compiled["loss"])
        if inputs == 1 and ENSEMBLE_OUTPUT not in outputs:
            outputs = (*outputs, ENSEMBLE_OUTPUT)
        timing = fit(
            trained,
            lambda initial_epoch: training_batches(
                splits.train,
                dataset,
                batch_size=batch_size,
                epochs=recipe.epochs,
                initial_epoch=initial_epoch,
                seed=seed,
                inputs=inputs,
                outputs=outputs,
                sample_weights=sample_weights,
            ),
            evaluation_batches(splits.validation, dataset, inputs=inputs)
            if len(splits.validation)
            else None,
            run=run,
            epochs=recipe.epochs,
            distribution=distribution,
            verbose=verbose,
        )
        if timing["steps_per_second"]:
            result["images_per_second"] = timing["steps_per_second"] * batch_size
        if trained is not model:
            copy_weights(trained, model)
        logits = member_logits(model, splits.test, dataset)
        result["test_top1"] = top_k_accuracy(combine(logits, scheme), splits.test.labels, k=1)
        result["member_top1"] = [
            top_k_accuracy(member, splits.test.labels, k=1) for member in logits
        ]
        result["backbone_top1"] = backbone_top1(backbone.model, splits.test, dataset)
        if len(splits.validation):
            validation = member_logits(model, splits.validation, dataset)
            result["validation_top1"] = top_k_accuracy(
                combine(validation, scheme), splits.validation.labels, k=1
            )
    if distribution.chief:
        run.save_model(model)
        run.save_result(result)
    return run, result
