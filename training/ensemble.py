"""Training of an ensemble from a pretrained run (paper, Algorithm 1)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from larq_ensemble.data.datasets import DATASETS, DataOptions, Dataset, Split, Splits
from larq_ensemble.ensembles.building import (
    EnsembleView,
    Initial,
    build_ensemble,
    build_member,
    check_members,
    compile_arguments,
    copy_weights,
    own_layers,
)
from larq_ensemble.ensembles.recomputation import recompute_members
from larq_ensemble.ensembles.schemes import ENSEMBLE_OUTPUT, SCHEMES, Scheme, Snapshot
from larq_ensemble.ensembles.traced import trace_members_once
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf
from larq_ensemble.network.sharing import parse_sharing
from larq_ensemble.runs import Run, RunConfig, package_versions
from larq_ensemble.runtime.combination import combine
from larq_ensemble.runtime.metrics import top_k_accuracy
from larq_ensemble.training.boosting import soft_boosting, zero_head
from larq_ensemble.training.distribution import Distribution
from larq_ensemble.training.evaluation import member_logits
from larq_ensemble.training.fit import set_seed
from larq_ensemble.training.graphs import temporary_graphs
from larq_ensemble.training.job import carry_out, fit_images
from larq_ensemble.training.pretrain import backbone_top1
from larq_ensemble.training.recipes import Recipe
from larq_ensemble.training.sequential import IN_TURN, InTurn, cycle_epochs


@temporary_graphs()
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
    in_turn: bool = False,
    initial: Initial = "pretrained",
    shrinkage: float | None = None,
    patience: int | None = None,
    distribute: str | None = None,
    recompute: bool = False,
    bfloat16: bool = False,
    resume: bool = False,
    verbose: int | str = "auto",
) -> tuple[Run, dict[str, Any]]:
    """Trains M members that share the backbone's frozen layers and writes their run directory.

    With `resume` it returns a run that has finished as it is.

    # Arguments
        backbone: the pretrained run; its data set and validation split are used.
        members, scheme, sharing: as for `build_ensemble`; `sharing` as text, see `parse_sharing`.
        independent_data: each member its own order and augmentation.
        prefix_weights: for nested fusion, see `larq_ensemble.ensembles.schemes.NestedFusion`.
        in_turn: train the members of voting or bagging one after another, in the memory that one
            takes; those of `boosting`, `snapshot`, `fast_geometric`, `adversarial`, `adaboost` and
            `stochastic_rounding` always are. The recipe's epochs are those of each member, for
            `snapshot` and `fast_geometric` of all.
        initial: as for `build_ensemble`.
        shrinkage: for boosting, in turn or soft, how much each member counts; `None`: 1.
        patience: for boosting and AdaBoost, ends after so many members in a row without a better
            validation accuracy, and leaves those out; `None`: never.
        distribute: see `larq_ensemble.training.distribution`.
        recompute: trains in the activation memory of one member, see `larq_ensemble.ensembles.recomputation`;
            the result is the same but for rounding, so a run may go on with or without it.
        bfloat16: computes the frozen binary convolutions of a training in bfloat16, see
            `larq_ensemble.ensembles.traced.trace_members_once`.

    # Returns
        The run and `{"test_top1", "member_top1", "backbone_top1", "validation_top1", "epochs",
        "images_per_second", "members"}`; accuracies in percent, `None` where nothing was
        evaluated; `members` as many as the ensemble has, which `patience` may make fewer.

    # Raises
        EnsembleError: for unusable values or data, a damaged run, or a taken directory.
    """
    distribution = Distribution(distribute)
    chosen = SCHEMES[scheme]
    if prefix_weights is not None:
        chosen = chosen.with_prefix_weights(prefix_weights)
    in_turn = _checked_in_turn(chosen, in_turn, independent_data, distribute, recompute)
    if bfloat16:
        _check_bfloat16(chosen, in_turn, recompute, distribution)
    _check_boosting(chosen, shrinkage, patience, data)
    check_members(members)
    if isinstance(chosen, Snapshot):
        cycle_epochs(scheme, recipe.epochs, members)
    dataset = DATASETS[backbone.config.dataset["name"]]
    network = backbone.model  # read first, for that draws from the generators too
    set_seed(seed, recipe.dropout)
    arguments: dict[str, Any] = {
        "sharing": parse_sharing(sharing),
        "scheme": scheme,
        "jitter": recipe.jitter,
        "dropout": recipe.dropout,
        "initial": initial,
        "seed": seed,
    }
    if in_turn:
        way = _in_turn(
            network,
            dataset,
            members=members,
            arguments=arguments,
            recipe=recipe,
            independent_data=independent_data,
            shrinkage=shrinkage,
            patience=patience,
            verbose=verbose,
        )
    else:
        way = _joint(
            network,
            dataset,
            members=members,
            scheme=chosen,
            arguments=arguments,
            recipe=recipe,
            independent_data=independent_data,
            prefix_weights=prefix_weights,
            shrinkage=shrinkage,
            recompute=recompute,
            bfloat16=bfloat16,
            distribution=distribution,
            verbose=verbose,
        )

    def train(run: Run, splits: Splits) -> tuple[keras.Model, dict[str, Any]]:
        ensemble, speed = way.train(run, splits)
        view = EnsembleView(ensemble)
        if view.members != members:  # ended early, see `patience`
            fewer = {"members": view.members, "requested_members": members}
            config = dataclasses.replace(run.config, ensemble={**run.config.ensemble, **fewer})
            Run(run.path, config).save_config()
        result: dict[str, Any] = {
            "members": view.members,
            "images_per_second": speed,
            "validation_top1": _top1(ensemble, splits.validation, dataset),
        }
        if len(splits.test):
            logits, labels = member_logits(ensemble, splits.test, dataset), splits.test.labels
            combined = combine(logits, scheme, view.weights)
            result |= {
                "test_top1": top_k_accuracy(combined, labels, k=1),
                "member_top1": [top_k_accuracy(member, labels, k=1) for member in logits],
                "backbone_top1": backbone_top1(backbone.model, splits.test, dataset),
            }
        return ensemble, result

    return carry_out(
        out,
        RunConfig(
            kind="ensemble",
            model=backbone.config.model,
            dataset=backbone.config.dataset,
            recipe=recipe.to_json(),
            seed=seed,
            data={**data.to_json(), "split_seed": backbone.config.split_seed},
            ensemble={
                "members": members,
                "scheme": scheme,
                "sharing": sharing,
                "shared_layers": way.shared_layers,
                "independent_data": independent_data,
                "prefix_weights": None if prefix_weights is None else [*prefix_weights],
                "backbone": backbone.digest,
                # Only what is not as in runs of before these options, which can be resumed so.
                **({"in_turn": True} if in_turn else {}),
                **({"initial": initial} if initial != "pretrained" else {}),
                **({"shrinkage": shrinkage} if shrinkage is not None else {}),
                **({"patience": patience} if patience is not None else {}),
                **({"bfloat16": True} if bfloat16 else {}),
            },
            versions=package_versions(),
        ),
        untrained=way.untrained,
        load=lambda: data.load(dataset, backbone.config.split_seed),
        train=train,
        figures={
            "test_top1": None,
            "member_top1": None,
            "backbone_top1": None,
            "validation_top1": None,
            "images_per_second": None,
            "members": members,
        },
        distribution=distribution,
        resume=resume,
    )


@dataclass(frozen=True)
class _Way:
    """How an ensemble is trained, jointly or in turn.

    # Arguments
        shared_layers: names of the layers that members share.
        untrained: the ensemble that training starts from.
        train: (run, data) -> the trained ensemble and its images a second.
    """

    shared_layers: list[str]
    untrained: Callable[[], keras.Model]
    train: Callable[[Run, Splits], tuple[keras.Model, float | None]]


def _joint(
    backbone: keras.Model,
    dataset: Dataset,
    *,
    members: int,
    scheme: Scheme,
    arguments: dict[str, Any],
    recipe: Recipe,
    independent_data: bool,
    prefix_weights: Sequence[float] | None,
    shrinkage: float | None,
    recompute: bool,
    bfloat16: bool,
    distribution: Distribution,
    verbose: int | str,
) -> _Way:
    """All members in one `fit`."""
    if shrinkage is not None:
        arguments = {**arguments, "weights": [shrinkage] * members}
    model = build_ensemble(backbone, members, **arguments)
    ensemble = (
        build_ensemble(backbone, members, independent_inputs=True, **arguments)
        if independent_data
        else model
    )
    soft = scheme.name == "soft_boosting"
    if soft:
        fitted = ensemble
    elif recompute:
        fitted = recompute_members(ensemble)
    else:
        fitted = trace_members_once(ensemble, bfloat16=bfloat16)
    outputs = () if soft else tuple(compile_arguments(fitted, prefix_weights)["loss"])
    if outputs and not independent_data and ENSEMBLE_OUTPUT not in outputs:
        outputs = (*outputs, ENSEMBLE_OUTPUT)

    def objective(network: keras.Model) -> tuple[keras.Model, dict[str, Any]]:
        if soft:
            return soft_boosting(network)
        return network, compile_arguments(network, prefix_weights)

    def train(run: Run, splits: Splits) -> tuple[keras.Model, float | None]:
        seed = arguments["seed"]
        if soft:
            for member in range(members):
                zero_head(EnsembleView(fitted).member(member), member)
        speed = fit_images(
            fitted,
            splits,
            dataset,
            run=run,
            recipe=recipe,
            objective=objective,
            seed=seed,
            distribution=distribution,
            verbose=verbose,
            inputs=len(fitted.inputs),
            outputs=outputs,
            sample_weights=scheme.sample_weights(members, len(splits.train), seed),
        )
        if ensemble is not model:
            copy_weights(ensemble, model)
        return model, speed

    shared = [layer.name for layer in EnsembleView(model).shared_layers()]
    return _Way(shared, lambda: model, train)


def _in_turn(
    backbone: keras.Model,
    dataset: Dataset,
    *,
    members: int,
    arguments: dict[str, Any],
    recipe: Recipe,
    independent_data: bool,
    shrinkage: float | None,
    patience: int | None,
    verbose: int | str,
) -> _Way:
    """One member after the other."""
    trainer = IN_TURN.get(arguments["scheme"], InTurn)(
        backbone=backbone,
        dataset=dataset,
        members=members,
        arguments=arguments,
        recipe=recipe,
        independent_data=independent_data,
        shrinkage=1.0 if shrinkage is None else shrinkage,
        patience=patience,
        verbose=verbose,
    )
    network = build_member(backbone, 0, **arguments)
    own = own_layers(network, 0)
    shared = [layer.name for layer in network.layers if layer.weights and layer not in own]
    return _Way(shared, lambda: build_ensemble(backbone, members, **arguments), trainer.train)


def _top1(ensemble: keras.Model, data: Split, dataset: Dataset) -> float | None:
    if not len(data):
        return None
    view = EnsembleView(ensemble)
    logits = member_logits(ensemble, data, dataset)
    return top_k_accuracy(combine(logits, view.scheme.name, view.weights), data.labels, k=1)


def _checked_in_turn(
    scheme: Scheme, in_turn: bool, independent_data: bool, distribute: str | None, recompute: bool
) -> bool:
    """Whether members are trained in turn.

    # Raises
        EnsembleError: if that does not go with the scheme, with several devices or with
            recomputation, or recomputation or independent data do not go with the scheme.
    """
    if in_turn and scheme.training == "joint" and not scheme.independent:
        raise EnsembleError(
            f"Training in turn does not go with the scheme {scheme.name!r}, which trains all "
            "members on one loss: leave --in-turn out, or choose voting or bagging."
        )
    in_turn = in_turn or scheme.training == "in_turn"
    if in_turn and distribute is not None:
        raise EnsembleError(
            "Training in turn runs on one device: leave --distribute out, or choose a scheme that "
            "trains all members together."
        )
    if in_turn and recompute:
        raise EnsembleError(
            "Recomputation is for members that are trained together; in turn, memory does not grow "
            "with their number anyway: leave --recompute out."
        )
    if recompute and scheme.name == "soft_boosting":
        raise EnsembleError(
            "Recomputation does not go with the scheme 'soft_boosting', whose loss is not one for "
            "each output: leave --recompute out, or choose boosting, which takes the memory of one "
            "member."
        )
    if in_turn and independent_data and not scheme.independent:
        raise EnsembleError(
            f"Independent data do not go with the scheme {scheme.name!r}, one training that runs "
            "through all members: leave --independent-data out."
        )
    return in_turn


def _check_bfloat16(
    scheme: Scheme, in_turn: bool, recompute: bool, distribution: Distribution
) -> None:
    """# Raises
    EnsembleError: if a training of this kind, or this machine, has no bfloat16.
    """
    if in_turn or recompute or scheme.name == "soft_boosting" or distribution.replicas > 1:
        raise EnsembleError(
            "bfloat16 is for members that are trained together on one device, by a scheme other "
            "than soft_boosting and without --recompute: leave --bfloat16 out."
        )
    try:
        one = tf.ones([1, 4, 4, 32], tf.bfloat16)
        tf.nn.conv2d(one, tf.ones([3, 3, 32, 32], tf.bfloat16), 1, "SAME")
    except tf.errors.OpError as error:
        raise EnsembleError(
            f"TensorFlow can't compute convolutions in bfloat16 here ({error.message}): leave "
            "--bfloat16 out."
        ) from error


def _check_boosting(
    scheme: Scheme, shrinkage: float | None, patience: int | None, data: DataOptions
) -> None:
    if shrinkage is not None and scheme.name not in ("boosting", "soft_boosting"):
        raise EnsembleError(
            f"`shrinkage` does not go with the scheme {scheme.name!r}: it belongs to 'boosting' "
            "and 'soft_boosting'."
        )
    if shrinkage is not None and not 0 < shrinkage < float("inf"):
        raise EnsembleError(f"`shrinkage` must be above 0, got {shrinkage}.")
    if patience is None:
        return
    if scheme.name not in ("boosting", "adaboost"):
        raise EnsembleError(
            f"`patience` does not go with the scheme {scheme.name!r}: it belongs to 'boosting' "
            "and 'adaboost', whose members build on those before them."
        )
    if patience < 1:
        raise EnsembleError(f"`patience` must be at least 1, got {patience}.")
    if not data.validation:
        raise EnsembleError(
            "`patience` watches the validation accuracy, and this backbone's training held no "
            "validation data out: leave it out, or pretrain with --validation."
        )
