"""Training of an ensemble from a pretrained run (paper, Algorithm 1)."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from larq_ensemble.data.class_weights import ClassWeighting, ClassWeights
from larq_ensemble.data.datasets import DataOptions, Dataset, Split, Splits
from larq_ensemble.ensembles import Ensemble, build_ensemble, build_member, copy_weights
from larq_ensemble.ensembles.building import Initial, check_mirrors
from larq_ensemble.ensembles.ensemble import own_layers
from larq_ensemble.ensembles.schemes import SCHEMES, Scheme
from larq_ensemble.errors import EnsembleError, check_whole
from larq_ensemble.files import is_run
from larq_ensemble.keras import keras
from larq_ensemble.network.sharing import has_own_head_bias, parse_sharing
from larq_ensemble.runs import (
    Run,
    RunConfig,
    check_takes_run,
    load_run,
    package_versions,
)
from larq_ensemble.runtime.combination import combine
from larq_ensemble.runtime.metrics import top_k_accuracy
from larq_ensemble.trained import Trained, check_binarized, data_of
from larq_ensemble.training.distillation import (
    Distillation,
    TaughtEnsemble,
    teacher_logits,
)
from larq_ensemble.training.distribution import Distribution
from larq_ensemble.training.evaluation import member_logits
from larq_ensemble.training.fit import generators_as_before, set_seed
from larq_ensemble.training.job import fit_images, load_splits, train_run
from larq_ensemble.training.memory import temporary_graphs
from larq_ensemble.training.pretrain import backbone_top1
from larq_ensemble.training.recipes import Recipe
from larq_ensemble.training.sequential import RunTraining
from larq_ensemble.training.transfer import split_seed


@temporary_graphs()
@generators_as_before()
def train_ensemble(
    backbone: Trained,
    out: str | os.PathLike[str],
    *,
    members: int,
    scheme: str = "fusion",
    sharing: str = "fusion",
    recipe: Recipe,
    seed: int = 0,
    dataset: str | Dataset | None = None,
    data: DataOptions = DataOptions(),  # noqa: B008  (frozen)
    augment: str | None = None,
    class_weights: ClassWeights | None = None,
    independent_data: bool = False,
    prefix_weights: Sequence[float] | None = None,
    in_turn: bool = False,
    initial: Initial = "pretrained",
    keep_pretrained: int = 0,
    mirror: bool = False,
    distillation: Distillation | None = None,
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
        backbone: the pretrained run, whose validation split is used, or a Keras file, see
            `larq_ensemble.trained.open_trained`. Nobody knows what the training of a Keras file
            held out, so members may look better on the validation split than they are.
        members, scheme, sharing: as for `build_ensemble`; `sharing` as text, see `parse_sharing`.
        dataset: where the backbone's data are now, or other data of the same classes and image
            shape, a data set or what `open_dataset` takes; `None`: the backbone's.
        augment, class_weights: as for `larq_ensemble.training.pretrain.pretrain`; `None`: as in the
            backbone's training. In bagging they multiply the counts of the bootstrap; in `adaboost`
            they are the sample weights of the first member.
        independent_data: each member its own order and augmentation.
        prefix_weights: for nested fusion, see `larq_ensemble.ensembles.schemes.NestedFusion`.
        in_turn: train the members of voting or bagging sequentially, in the memory of one. Other
            schemes always train so, see `larq_ensemble.ensembles.schemes`. The recipe's epochs are
            for each member; for `snapshot` and `fast_geometric` they are for all together.
        initial, keep_pretrained, mirror: as for `build_ensemble`.
        distillation: a teacher of the members together, see
            `larq_ensemble.training.distillation.Distillation.losses`.
        shrinkage: for `boosting` and `soft_boosting`, the weight of each member; `None`: 1.
        patience: for `boosting` and `adaboost`, stop after this many members without a better
            validation accuracy, and drop them; `None`: never.
        distribute: see `larq_ensemble.training.distribution`.
        recompute, bfloat16: see `Ensemble.compile`. A run may be resumed with or without
            `recompute`, because the results are the same except for rounding.

    # Returns
        The run and `{"test_top1", "member_top1", "backbone_top1", "validation_top1", "epochs",
        "images_per_second", "members"}`; accuracies in percent, `None` where nothing was
        evaluated. `members` is the number of trained members, which may be fewer with `patience`.

    # Raises
        EnsembleError: for unusable values or data, a damaged run, or a taken directory.
    """
    check_binarized(backbone)
    distribution = Distribution(distribute)
    if distribute is None:  # before the members are built, which takes a while
        check_takes_run(out, resume=resume)
    options = _Options(
        independent_data=independent_data,
        prefix_weights=prefix_weights,
        in_turn=in_turn,
        initial=initial,
        keep_pretrained=keep_pretrained,
        mirror=mirror,
        distillation=distillation,
        shrinkage=shrinkage,
        patience=patience,
        distribute=distribute,
        recompute=recompute,
        bfloat16=bfloat16,
    )
    chosen = options.checked(SCHEMES[scheme], distribution, data, recipe)
    members = check_whole("members", members, 1)
    if mirror:
        check_mirrors(members)
        _warn_of_unmirrored(backbone)
    chosen.member_epochs(recipe.epochs, members)
    opened = data_of(backbone, dataset, data.data_dir).augmented(augment)
    if distillation is not None:
        _check_teacher(distillation, backbone, opened, data)
    if class_weights is None:
        class_weights = backbone.config.data.get("class_weights")
    weighting = ClassWeighting.of(class_weights, opened.class_names)
    network = backbone.model  # before the seed is set, because loading draws random numbers
    set_seed(seed, recipe.dropout)
    # A run of before has members without it, and goes on as it was started.
    own_head_bias = not (resume and is_run(out)) or load_run(out).config.own_head_bias
    shared = parse_sharing(sharing, own_head_bias=own_head_bias)
    training = _training(
        network,
        opened,
        members,
        {
            "sharing": shared,
            "scheme": scheme,
            "jitter": recipe.jitter,
            "dropout": recipe.dropout,
            "initial": initial,
            "mirror": mirror,
            "seed": seed,
        },
        scheme=chosen,
        weighting=weighting,
        recipe=recipe,
        options=options,
        distribution=distribution,
        verbose=verbose,
    )

    def train(run: Run, splits: Splits) -> tuple[keras.Model, dict[str, Any]]:
        ensemble, speed = training.train(run, splits)
        if ensemble.members != members:  # ended early, see `patience`
            fewer = {"members": ensemble.members, "requested_members": members}
            config = dataclasses.replace(run.config, ensemble={**run.config.ensemble, **fewer})
            Run(run.path, config).save_config()
        measured = _measured(ensemble, backbone.model, splits, opened)
        return ensemble, {"images_per_second": speed, **measured}

    return train_run(
        out,
        RunConfig(
            kind="ensemble",
            model=backbone.config.model,
            dataset=_recorded(backbone, opened, is_given=dataset is not None, augment=augment),
            recipe=recipe.to_json(),
            seed=seed,
            data={
                **data.to_json(),
                "split_seed": backbone.config.split_seed,
                **weighting.to_json(),
            },
            ensemble={
                "members": members,
                "scheme": scheme,
                "sharing": sharing,
                "shared_layers": training.shared_layers,
                "backbone": backbone.digest,
                **options.to_json(chosen),
                **({"own_head_bias": True} if has_own_head_bias(shared) else {}),
            },
            transfer={} if distillation is None else distillation.to_json(),
            versions=package_versions(),
        ),
        untrained=training.untrained,
        load=lambda: load_splits(data, opened, backbone.config.split_seed, weighting),
        train=train,
        figures={**dict.fromkeys(_FIGURES), "members": members},
        distribution=distribution,
        resume=resume,
    )


#: What is measured, in the result.
_FIGURES = ("test_top1", "member_top1", "backbone_top1", "validation_top1", "images_per_second")


@dataclass(frozen=True, kw_only=True)
class _Options:
    """Those of `train_ensemble` that depend on the scheme."""

    independent_data: bool
    prefix_weights: Sequence[float] | None
    in_turn: bool
    initial: Initial
    keep_pretrained: int
    mirror: bool
    distillation: Distillation | None
    shrinkage: float | None
    patience: int | None
    distribute: str | None
    recompute: bool
    bfloat16: bool

    def checked(
        self, scheme: Scheme, distribution: Distribution, data: DataOptions, recipe: Recipe
    ) -> Scheme:
        """The scheme with these options.

        # Raises
            EnsembleError: for one that has no effect or can't be.
        """
        scheme.check(
            in_turn=self.in_turn,
            independent_data=self.independent_data,
            prefix_weights=self.prefix_weights,
            keep_pretrained=self.keep_pretrained > 0,
            teacher=self.distillation,
            label_smoothing=recipe.label_smoothing or None,
            warmup_epochs=recipe.warmup_epochs or None,
            shrinkage=self.shrinkage,
            patience=self.patience,
            distribute=self.distribute,
            recompute=self.recompute,
            bfloat16=self.bfloat16,
        )
        if self.distillation is not None:
            self.distillation.check_smoothing(recipe.label_smoothing)
        if self.bfloat16 and distribution.replicas > 1:
            raise EnsembleError("`bfloat16` is for training on one device: leave it out.")
        if self.patience is not None and not data.validation:
            raise EnsembleError(
                "`patience` watches the validation accuracy, and this backbone's training held no "
                "validation data out: leave it out, or pretrain with validation data."
            )
        if self.prefix_weights is None:
            return scheme
        return scheme.with_prefix_weights(self.prefix_weights)

    def to_json(self, scheme: Scheme) -> dict[str, Any]:
        """What a run records, most of it only if not the default: older runs lack it."""
        weights = self.prefix_weights
        return {
            "independent_data": self.independent_data,
            "prefix_weights": None if weights is None else [*weights],
            **({"in_turn": True} if self.in_turn or scheme.sequential else {}),
            **({"initial": self.initial} if self.initial != "pretrained" else {}),
            **({"keep_pretrained": int(self.keep_pretrained)} if self.keep_pretrained else {}),
            **({"mirror": True} if self.mirror else {}),
            **({"shrinkage": self.shrinkage} if self.shrinkage is not None else {}),
            **({"patience": self.patience} if self.patience is not None else {}),
            **({"bfloat16": True} if self.bfloat16 else {}),
        }


def _measured(
    ensemble: Ensemble, backbone: keras.Model, splits: Splits, dataset: Dataset
) -> dict[str, Any]:
    """The accuracies of a trained ensemble, entries of the result."""
    measured: dict[str, Any] = {
        "members": ensemble.members,
        "validation_top1": _top1(ensemble, splits.validation, dataset),
    }
    if not len(splits.test):
        return measured
    logits, labels = member_logits(ensemble, splits.test, dataset), splits.test.labels
    combined = combine(logits, ensemble.scheme.name, ensemble.member_weights)
    return {
        **measured,
        "test_top1": top_k_accuracy(combined, labels, k=1),
        "member_top1": [top_k_accuracy(member, labels, k=1) for member in logits],
        "backbone_top1": backbone_top1(backbone, splits.test, dataset),
    }


def _recorded(
    backbone: Trained, dataset: Dataset, *, is_given: bool, augment: str | None
) -> dict[str, Any]:
    """The constants of the data: those of the backbone's run, but for what is asked for here."""
    constants = dataset.constants() if is_given else backbone.config.dataset
    if augment is None:
        return constants
    return {**constants, "augmentation": dataset.augmentation.to_json()}


def _warn_of_unmirrored(backbone: Trained) -> None:
    """Warns if the backbone was trained without mirrored images, as far as that is known."""
    if backbone.config.dataset.get("augmentation", {}).get("flip") is False:
        warnings.warn(
            f"`mirror` shows every second member mirrored images, and {str(backbone.path)!r} was "
            "trained without: pretrain with `augment` 'flip', 'rand' or 'mix'.",
            stacklevel=3,
        )


def _check_teacher(
    distillation: Distillation, backbone: Trained, dataset: Dataset, data: DataOptions
) -> None:
    """# Raises
    EnsembleError: if the teacher is for other classes or images, or was trained on images that
        the ensemble's training holds out, or of another normalization.
    """
    distillation.check_teaches(backbone.config.model)
    distillation.check_sees(dataset.normalization)
    teacher, cut_by = distillation.teacher, backbone.config.split_seed
    if not backbone.config.held_out_is_known:  # then nothing is, whatever the teacher saw
        data = dataclasses.replace(data, validation=0.0)
    if split_seed([teacher], dataset, data, cut_by) != cut_by and data.validation:
        raise EnsembleError(
            f"`teacher` {str(teacher.path)!r} was trained on images that {str(backbone.path)!r} "
            "held out for validation: pretrain both with the same `seed`."
        )


class _Training(Protocol):
    """How the ensemble of a run is trained."""

    @property
    def shared_layers(self) -> list[str]:
        """The names of the layers that members share."""

    def untrained(self) -> Ensemble:
        """The ensemble that training starts from."""

    def train(self, run: Run, splits: Splits) -> tuple[Ensemble, float | None]:
        """Trains; returns the ensemble and its images per second."""


def _training(
    network: keras.Model,
    dataset: Dataset,
    members: int,
    arguments: dict[str, Any],
    *,
    scheme: Scheme,
    options: _Options,
    distribution: Distribution,
    **settings: Any,
) -> _Training:
    """How members of a scheme are trained.

    # Arguments
        arguments: of `build_ensemble`.
        settings: those that `_Joint` and `_Sequential` have in common.
    """
    if options.in_turn or scheme.sequential:
        return _Sequential(network, dataset, members, arguments, options=options, **settings)
    return _Joint(
        network,
        dataset,
        members,
        arguments,
        scheme=scheme,
        options=options,
        distribution=distribution,
        **settings,
    )


class _Joint:
    """All members in one `fit`."""

    def __init__(
        self,
        backbone: keras.Model,
        dataset: Dataset,
        members: int,
        arguments: dict[str, Any],
        *,
        scheme: Scheme,
        weighting: ClassWeighting,
        recipe: Recipe,
        options: _Options,
        distribution: Distribution,
        verbose: int | str,
    ) -> None:
        arguments = {**arguments, "keep_pretrained": options.keep_pretrained}
        if options.shrinkage is not None:
            arguments["weights"] = [options.shrinkage] * members
        self._ensemble = build_ensemble(
            backbone, members, normalization=dataset.normalization, **arguments
        )
        #: What is fitted: with independent data it has an input per member.
        self._fitted = (
            build_ensemble(backbone, members, independent_inputs=True, **arguments)
            if options.independent_data
            else self._ensemble
        )
        self._scheme = scheme
        self._compile_arguments = {
            "prefix_weights": options.prefix_weights,
            "recompute": options.recompute,
            "bfloat16": options.bfloat16,
            "label_smoothing": recipe.label_smoothing,
            "seed": arguments["seed"],
        }
        self._fitted.compile(**self._compile_arguments)  # what is impossible is refused now
        self._dataset, self._recipe, self._seed = dataset, recipe, arguments["seed"]
        self._weighting = weighting
        self._distillation = options.distillation
        self._distribution, self._verbose = distribution, verbose

    @property
    def shared_layers(self) -> list[str]:
        return [layer.name for layer in self._ensemble.shared_layers()]

    def untrained(self) -> Ensemble:
        return self._ensemble

    def train(self, run: Run, splits: Splits) -> tuple[Ensemble, float | None]:
        fitted, members = self._fitted, self._fitted.members
        # With independent data labels of members differ, and the ensemble's output has none.
        measured = self._scheme.combinations(members) if len(fitted.inputs) == 1 else ()
        speed = fit_images(
            fitted,
            splits,
            self._dataset,
            run=run,
            recipe=self._recipe,
            objective=self._objective,
            seed=self._seed,
            distribution=self._distribution,
            verbose=self._verbose,
            inputs=len(fitted.inputs),
            outputs=tuple(dict.fromkeys([*self._scheme.losses(members), *measured])),
            sample_weights=self._scheme.sample_weights(members, len(splits.train), self._seed),
            class_weights=self._weighting.by_class(splits.train.labels),
        )
        if fitted is not self._ensemble:
            copy_weights(fitted, self._ensemble)
        return self._ensemble, speed

    def _objective(self, ensemble: Ensemble) -> tuple[keras.Model, dict[str, Any]]:
        if self._distillation is None:
            return ensemble, self._compile_arguments
        teacher = self._distribution.replicate(self._distillation.teacher.model)
        return TaughtEnsemble(ensemble, teacher_logits(teacher)), {
            **self._compile_arguments,
            "label_smoothing": 0.0,  # the losses have it
            "loss": self._distillation.losses(
                self._scheme, ensemble.members, label_smoothing=self._recipe.label_smoothing
            ),
            "loss_weights": self._scheme.loss_weights(ensemble.members),
        }


@dataclass(frozen=True)
class _Sequential:
    """One member after the other."""

    backbone: keras.Model
    dataset: Dataset
    members: int
    arguments: dict[str, Any]
    weighting: ClassWeighting
    recipe: Recipe
    options: _Options
    verbose: int | str

    @property
    def shared_layers(self) -> list[str]:
        network = build_member(self.backbone, 0, **self.arguments)
        own = own_layers(network, 0)
        return [layer.name for layer in network.layers if layer.weights and layer not in own]

    def untrained(self) -> Ensemble:
        return build_ensemble(
            self.backbone,
            self.members,
            normalization=self.dataset.normalization,
            **self.arguments,
        )

    def train(self, run: Run, splits: Splits) -> tuple[Ensemble, float | None]:
        """The speed is that of one member's training."""
        training = RunTraining(
            self.backbone,
            self.members,
            self.arguments,
            run=run,
            splits=splits,
            dataset=self.dataset,
            class_weights=self.weighting.by_class(splits.train.labels),
            recipe=self.recipe,
            independent_data=self.options.independent_data,
            shrinkage=1.0 if self.options.shrinkage is None else self.options.shrinkage,
            patience=self.options.patience,
            verbose=self.verbose,
        )
        ensemble, results = training.train()
        training.write_log(len(results))
        speeds = [result["images_per_second"] for result in results]
        known = [speed for speed in speeds if speed is not None]
        return ensemble, float(np.mean(known)) if known else None


def _top1(ensemble: Ensemble, data: Split, dataset: Dataset) -> float | None:
    if not len(data):
        return None
    logits = member_logits(ensemble, data, dataset)
    probabilities = combine(logits, ensemble.scheme.name, ensemble.member_weights)
    return top_k_accuracy(probabilities, data.labels, k=1)
