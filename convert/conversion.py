"""One Keras ensemble in, one `.tflite` out: front end, pipeline, target."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from larq_ensemble.convert.agreement import (
    as_if_trained,
    check_agreement,
    check_input_scale,
    is_untrained,
)
from larq_ensemble.convert.comparison import some_images
from larq_ensemble.convert.cutting import cut
from larq_ensemble.convert.frontend.member_indexed import MemberIndexedNetwork, image_shape
from larq_ensemble.convert.pipeline import REWRITES, run_pipeline
from larq_ensemble.convert.report import ConversionReport, write_file
from larq_ensemble.convert.targets import checked_filters
from larq_ensemble.convert.targets.lce import write_ensemble
from larq_ensemble.convert.targets.litert import legalized_ensemble
from larq_ensemble.data.normalization import Normalization
from larq_ensemble.ensembles import Ensemble, as_ensemble, build_ensemble
from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.files import check_output
from larq_ensemble.keras import keras
from larq_ensemble.models.copying import in_float32
from larq_ensemble.models.weights import check_weights
from larq_ensemble.runs import package_versions
from larq_ensemble.runtime.metadata import (
    HEADS,
    LAYOUTS,
    PRECISIONS,
    EnsembleMetadata,
    not_in_proportion,
)
from larq_ensemble.runtime.pixels import checked_pixels
from larq_ensemble.trained import Trained, check_binarized

_TOOLS = ("larq-ensemble", "larq-compute-engine", "tensorflow")


def convert_ensemble(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    images: np.ndarray | None = None,
    members: int | None = None,
    layout: str = "auto",
    heads: str = "float32",
    precision: str = "float32",
    target: str = "lce",
    filters: str | None = None,
    class_names: Sequence[str] | None = None,
    dataset: str | None = None,
    data_origin: Mapping[str, Any] | None = None,
    validation_split: Mapping[str, float] | None = None,
    run_hash: str | None = None,
) -> ConversionReport:
    """Converts an ensemble to one `.tflite` file, for Larq Compute Engine (LCE) or stock runtimes.

    The file takes raw pixels. It holds each shared filter once, the values that members own, and
    metadata. `larq_ensemble.runtime.EnsembleInterpreter` runs it. Conversion has four steps: the
    front end makes the member-indexed graph (`larq_ensemble.convert.frontend.member_indexed`), LCE
    converts it to TFLite operators, the passes rewrite it (`larq_ensemble.convert.pipeline`), and
    the target writes the file (`larq_ensemble.convert.targets`).

    # Arguments
        model: an `Ensemble`, trained or not.
        path: where to write; an existing file is replaced only on success.
        mean, std: the training data's constants on the scale 0..1, one number per channel; the file
            computes `(pixel / 255 - mean) / std`. `None`: those of `Ensemble.normalization`, which
            they must not contradict.
        images: a few images with raw pixels, `[n, height, width, channels]`, on which the file is
            compared with Keras before it is written; better than the default, random ones.
        members: convert only the first m members; `None`: all.
        layout: how the file holds its members. `"indexed"`: one graph that looks a member's
            values up by its number; `"subgraphs"`: a graph per member; `"branches"`: one graph with
            all members; `"auto"`: `"subgraphs"` where members own binary filters, else `"indexed"`.
        heads: number format of the last linear layer's weights: `"float32"`, or `"int8"` with a
            scale for each class.
        precision: number format of all other values that members own: `"float32"`, or `"compact"`
            with 4 bits per value, see `larq_ensemble.convert.frontend.tables`. Filters that members
            own stay as they are.
        target: which runtimes the file is for. `"lce"`: LCE and this package; `"litert"`: any
            TFLite runtime, because the file has builtin operators only.
        filters: how a file for `"litert"` stores binary filters: `"int8"`, a byte a weight, runs
            fastest; `"1bit"`, a bit a weight, is smallest. `None`: `"int8"`.
        class_names: one name per class.
        dataset: name of the data set, for the file's description.
        data_origin: which images they are, see `EnsembleMetadata`.
        validation_split: which of its images were held out, see `EnsembleMetadata`.
        run_hash: SHA-256 of the weights' file, for the file's description.

    # Returns
        The size in bytes, the lower bound, the duration, and how the file agrees with Keras.

    # Raises
        EnsembleError: if the model is no ensemble, holds weights that are not finite, or can't be
            converted, if the normalization is not known or contradicts the model's, if the file
            would not compute what Keras computes, or if `path` can't be written. It warns if
            images seem to have been scaled otherwise in training.

    # Example
    ```python
    ensemble = build_ensemble(backbone, 4, normalization=Normalization([0.5] * 3, [0.25] * 3))
    ...
    report = convert_ensemble(ensemble, "ensemble.tflite")
    print(report.bytes, report.ratio)
    ```
    """
    start = time.perf_counter()
    check_output(path)
    filters = checked_filters(target, filters)
    for argument, value, known in (
        ("layout", layout, ("auto", *LAYOUTS)),
        ("heads", heads, HEADS),
        ("precision", precision, PRECISIONS),
    ):
        if value not in known:
            raise UnknownNameError(argument, value, known)
    ensemble = as_ensemble(model)
    normalization = normalization_of(ensemble, mean, std)
    check_weights(ensemble)
    ensemble = in_float32(ensemble)
    shape = image_shape(ensemble)
    compared = some_images(shape) if images is None else checked_pixels(images, shape, stacklevel=3)
    check_input_scale(ensemble, normalization, compared, are_given=images is not None)

    untrained = is_untrained(ensemble)

    def file() -> tuple[bytes, EnsembleMetadata]:
        network = MemberIndexedNetwork(
            ensemble,
            normalization=normalization,
            heads=heads,
            precision=precision,
            share_rows=not untrained,
        )
        module = network.to_module(layout)
        counts = run_pipeline(module, share_rows=not untrained)
        description = EnsembleMetadata(
            scheme=ensemble.scheme.name,
            members=ensemble.members,
            classes=ensemble.classes,
            input_shape=shape,
            class_names=None if class_names is None else tuple(map(str, class_names)),
            dataset=dataset,
            data_origin=data_origin or {},
            validation_split=validation_split or {},
            heads=heads,
            precision=precision,
            columns=network.tables.columns,
            run_hash=run_hash,
            layout=module.layout,
            theory_parts={name: of[-1] for name, of in network.lower_bound_parts.items()},
            theory_parts_of_first=not_in_proportion(network.lower_bound_parts),
            weights=ensemble.member_weights,
            rewrites=network.rewrites + Counter({name: counts[name] for name in REWRITES}),
            tools=package_versions(_TOOLS),
        )
        data = write_ensemble(module, description)
        if members is not None:
            description = description.first(members)
            data = cut(data, description)
        if target == "litert":
            description = dataclasses.replace(description, target=target, filters=filters)
            data = legalized_ensemble(data, description)
        return data, description

    if untrained:
        with as_if_trained(ensemble, normalization, compared):
            check_agreement(ensemble, file()[0], normalization, compared)
    data, description = file()
    agreement = check_agreement(ensemble, data, normalization, compared)
    return write_file(data, description, path, start, agreement)


def check_convertible(model: keras.Model) -> None:
    """Converts a network without writing a file: to know that it can be, before training it.

    It takes some seconds, whatever the number of members. What the file computes is compared with
    Keras, as in every conversion.

    # Arguments
        model: an `Ensemble`, or a classifier to build one from; trained or not.

    # Raises
        EnsembleError: as `convert_ensemble`, with the layer that can't be converted.
    """
    if not isinstance(model, Ensemble):
        model = build_ensemble(model, 1, jitter=0)
    mean = std = None
    if model.normalization is None and not model.inputs[0].dtype.is_integer:
        channels = image_shape(model)[-1]
        mean, std = [0.5] * channels, [0.25] * channels
    with tempfile.TemporaryDirectory() as folder:
        convert_ensemble(model, Path(folder, "ensemble.tflite"), mean=mean, std=std)


def normalization_of(
    ensemble: Ensemble, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Normalization:
    """The normalization that an ensemble was trained with.

    # Arguments
        mean, std: what the caller says; both or none.

    # Raises
        EnsembleError: if nobody says it, or the caller contradicts the ensemble.
    """
    image = ensemble.inputs[0]
    channels = int(image.shape[-1])
    if (mean is None) != (std is None):
        raise EnsembleError("Give both `mean` and `std`, or none of them.")
    given = None if mean is None or std is None else Normalization(mean, std)
    known = ensemble.normalization
    if known is None and image.dtype.is_integer:  # pixels as they are, and nothing else
        known = Normalization.raw(channels)
    normalization = known or given
    if normalization is None:
        raise EnsembleError(
            "How images were scaled for this ensemble is not known: set `ensemble.normalization`, "
            f"to Normalization.raw({channels}) if the network takes pixels from 0 to 255 as they "
            "are, or give `mean` and `std`."
        )
    if given is not None:
        given.check_channels(channels)
        if known is not None and not given.is_close(known):
            raise EnsembleError(
                f"`mean` {list(given.mean)} and `std` {list(given.std)} contradict the ensemble's "
                f"normalization, {list(known.mean)} and {list(known.std)}: leave them out, or "
                "change `ensemble.normalization` if that one is wrong."
            )
    return normalization


def trained_ensemble(run: Trained) -> keras.Model:
    """The trained ensemble of a run or a Keras file; a backbone counts as an ensemble of one.

    # Raises
        EnsembleError: if the run has not finished, its weights' file is damaged, or its filters
            are not binary yet.
    """
    check_binarized(run)
    if run.config.kind == "ensemble":
        return run.model
    return build_ensemble(run.model, 1, jitter=0, normalization=run.normalization)


def convert_run(
    run: Trained,
    path: str | os.PathLike[str],
    *,
    images: np.ndarray | None = None,
    members: int | None = None,
    layout: str = "auto",
    heads: str = "float32",
    precision: str = "float32",
    target: str = "lce",
    filters: str | None = None,
) -> ConversionReport:
    """`convert_ensemble` with everything that a run directory or a `KerasFile` knows.

    # Raises
        EnsembleError: as `trained_ensemble` and `convert_ensemble`.
    """
    dataset = run.config.dataset
    return convert_ensemble(
        trained_ensemble(run),
        path,
        mean=dataset["mean"],
        std=dataset["std"],
        images=images,
        members=members,
        layout=layout,
        heads=heads,
        precision=precision,
        target=target,
        filters=filters,
        class_names=dataset.get("class_names"),
        dataset=dataset.get("name"),
        data_origin=data_origin(dataset),
        validation_split=validation_split(run),
        run_hash=run.digest,
    )


def data_origin(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What `larq-ensemble calibrate` needs to find data of one's own again; no paths."""
    origin = dataset.get("source")
    return {} if origin is None else {key: origin[key] for key in ("images", "fingerprint")}


def validation_split(run: Trained) -> dict[str, float]:
    """What `larq-ensemble calibrate` needs to find the images that were never trained on."""
    config = run.config
    if not config.held_out_is_known:
        return {}
    split = {"seed": config.split_seed, "share": config.data["validation"]}
    limit = config.data["limit_train"]
    return split if limit is None else {**split, "limit_train": limit}
