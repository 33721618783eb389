"""A real-valued network as a file that computes in integers: what a binarized one competes with.

TFLite's post-training quantization, as its users do it:

- activations are int8 with one scale a tensor, from the range that it has on training images;
- weights are int8 with a scale for each filter;
- with `"int4"` the filters of all convolutions but the first have 4 bits
  (`larq_ensemble.convert.passes.four_bit_filters`).

The file takes raw pixels and has the form of an ensemble of one member, so what runs, measures or
inspects an ensemble's file takes it. All operators are builtin ones.

# References
    - Jacob et al. 2018, [Quantization and training of neural networks for efficient
      integer-arithmetic-only inference](https://arxiv.org/abs/1712.05877).
    - [TFLite's specification](https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from larq_ensemble.console.standard_error import without_lines
from larq_ensemble.convert.agreement import is_untrained
from larq_ensemble.convert.comparison import deviation, member_logits, some_images
from larq_ensemble.convert.conversion import data_origin, trained_ensemble, validation_split
from larq_ensemble.convert.frontend.lce import without_notes
from larq_ensemble.convert.frontend.member_indexed import image_shape
from larq_ensemble.convert.inspection import constant_bytes
from larq_ensemble.convert.passes import (
    constant_deduplication,
    dead_code,
    debug_info,
    four_bit_filters,
)
from larq_ensemble.convert.report import ConversionReport, write_file
from larq_ensemble.convert.targets.lce import write_ensemble
from larq_ensemble.data.datasets import Split, Splits
from larq_ensemble.data.normalization import Normalization
from larq_ensemble.errors import EnsembleError, UnknownNameError, first_line
from larq_ensemble.files import check_output
from larq_ensemble.ir.flatbuffer import read
from larq_ensemble.ir.graph import Module, Operator, Signature, Tensor
from larq_ensemble.ir.schema import options
from larq_ensemble.keras import keras, tf
from larq_ensemble.models.copying import in_float32
from larq_ensemble.models.graph import layer_graph
from larq_ensemble.models.weights import check_weights
from larq_ensemble.network.graph import Role
from larq_ensemble.runs import package_versions
from larq_ensemble.runtime.file import checked_ensemble
from larq_ensemble.runtime.metadata import QUANTIZATIONS, EnsembleMetadata
from larq_ensemble.trained import Trained, data_of, splits_as_trained

#: Training images that show the range of each tensor, and held-out ones on which the loss is seen.
REPRESENTATIVE, COMPARED = 512, 1000
#: The largest deviation (`larq_ensemble.convert.comparison`) from Keras. Unrelated logits deviate
#: by 1.4; DeployNet-9's twin on CIFAR-100 by 0.2 with int8 and 0.3 with int4.
LIMIT = 0.8
_BATCH = 100
#: A line that the converter writes to standard error.
_NOTICE = b"fully_quantize: "
_TOOLS = ("larq-ensemble", "tensorflow")


@dataclass(frozen=True)
class QuantizationLoss:
    """What integers cost in accuracy.

    # Arguments
        weights: their number format.
        representative_images: training images that showed the ranges of activations; 0: random
            ones, because the network saw no data.
        compared_images: images of `split` on which the file was compared with Keras.
        split: `"validation"`; `"training"` if nothing was held out; `"random"`.
        argmax_agreement: share (0..1) of them with the same class.
        float_top1, top1: accuracies of Keras and of the file in percent, without labels `None`.
    """

    weights: str
    representative_images: int
    compared_images: int
    split: str
    argmax_agreement: float
    float_top1: float | None
    top1: float | None


def quantize_run(
    run: Trained,
    path: str | os.PathLike[str],
    *,
    weights: str = "int8",
    dataset: str | None = None,
    data_dir: str | None = None,
) -> ConversionReport:
    """Writes the trained real-valued network of a run, or a `KerasFile`, in integers.

    # Arguments
        run: a network without binary layers.
        path: where to write; an existing file is replaced only on success.
        weights: `"int8"`; or `"int4"`: 4 bits in all convolutions but the first.
        dataset: where its data are now; `None`: as the run says.
        data_dir: as for `larq_ensemble.data.datasets.DataOptions`.

    # Returns
        The report of the conversion, with `quantization`, the accuracy before and after.

    # Raises
        EnsembleError: if the network is binarized or an ensemble, TFLite can't quantize it, its
            data can't be read, or `path` can't be written. An untrained network needs no data.

    # Example
    ```python
    report = quantize_run(load_run("runs/real"), "int8.tflite")
    print(report.bytes, report.quantization.float_top1, report.quantization.top1)
    ```
    """
    start = time.perf_counter()
    check_output(path)
    if weights not in QUANTIZATIONS:
        raise UnknownNameError("weights", weights, QUANTIZATIONS)
    ensemble = trained_ensemble(run)
    network = _real_valued(ensemble, str(run.path))
    shape = image_shape(network)
    # Sizes and costs don't depend on values, so a network that saw no data needs none here.
    saw_no_data = run.config.recipe.get("epochs") == 0 and is_untrained(ensemble)
    splits = None
    if not saw_no_data:
        splits = splits_as_trained(run, data_of(run, dataset, data_dir), data_dir, limit_test=0)
    pixels = some_images(shape) if splits is None else _drawn(splits.train, REPRESENTATIVE)
    module = quantized(network, run.normalization, pixels, weights)
    constants = run.config.dataset
    metadata = EnsembleMetadata(
        scheme=ensemble.scheme.name,
        members=1,
        classes=ensemble.classes,
        input_shape=shape,
        class_names=None if (names := constants.get("class_names")) is None else tuple(names),
        dataset=constants.get("name"),
        data_origin=data_origin(constants),
        validation_split=validation_split(run),
        run_hash=run.digest,
        layout=module.layout,
        target="litert",
        quantization=weights,
        theory_parts={
            f"member_{category}": size for category, size in constant_bytes(module.graph).items()
        },
        tools=package_versions(_TOOLS),
    )
    data = write_ensemble(module, metadata)
    seen = 0 if splits is None else len(pixels)
    loss = _loss(network, run.normalization, data, weights, seen, splits)
    return write_file(data, metadata, path, start, quantization=loss)


def quantized(
    network: keras.Model, normalization: Normalization, images: np.ndarray, weights: str
) -> Module:
    """A network in integers, for a target to write.

    # Arguments
        network: image -> logits, without binary layers.
        normalization: from pixels to its input; computed in floats, before the first rounding.
        images: raw pixels `[n, height, width, channels]` that show the range of each tensor.
        weights: one of `QUANTIZATIONS`.

    # Returns
        One graph from `image` (float32, 0..255) to `logits` (float32).

    # Raises
        EnsembleError: with TFLite's reason, if it refuses the network.
    """
    data = _converted(in_float32(network), normalization(images.astype(np.float32)))
    module = read(data, "What TFLite's converter makes of the network")
    module.members, module.layout, module.metadata = 1, "subgraphs", {}
    _take_pixels(module, normalization)
    if weights == "int4":
        four_bit_filters.run(module)
    for finish in (dead_code, debug_info, constant_deduplication):
        finish.run(module)
    return module


def float_logits(
    network: keras.Model, normalization: Normalization, images: np.ndarray
) -> np.ndarray:
    """What Keras computes of raw pixels, float32 `[n, classes]`.

    Not by `predict`, which traces each network once more.
    """
    parts = (images[start : start + _BATCH] for start in range(0, len(images), _BATCH))
    logits = [network(normalization(part.astype(np.float32)), training=False) for part in parts]
    return np.concatenate([np.asarray(part, np.float32) for part in logits])


def _real_valued(ensemble: keras.Model, name: str) -> keras.Model:
    """The only member of an ensemble of one.

    # Raises
        EnsembleError: if there are more, or it has binary layers.
    """
    if ensemble.members > 1:
        raise EnsembleError(
            f"`quantize` is for a single network, but {name!r} is an ensemble of "
            f"{ensemble.members} members: leave it out, or give the run of a real-valued network."
        )
    check_weights(ensemble)
    network = ensemble.member(0)
    graph = layer_graph(network)
    binary = [
        node.name for node in graph if node.quantized or graph.roles[node.name] is Role.QUANTIZED
    ]
    if binary:
        raise EnsembleError(
            f"`quantize` is for real-valued networks, but {name!r} is binarized "
            f"({len(binary)} layers): leave it out, or train the real-valued twin, such as "
            "resnet20_real."
        )
    return network


def _drawn(split: Split, count: int) -> np.ndarray:
    """Random images of a split: those of a folder come class by class."""
    return np.asarray(split.take(_places(split, count)).images)


def _places(split: Split, count: int) -> np.ndarray:
    return np.sort(np.random.default_rng(0).permutation(len(split))[:count])


def _converted(network: keras.Model, images: np.ndarray) -> bytes:
    """What TFLite's converter makes of a network, from normalized images to logits."""

    def logits(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": network(image, training=False)}

    def representative() -> Iterator[list[np.ndarray]]:
        for image in images:
            yield [image[np.newaxis]]

    image = tf.TensorSpec([1, *network.inputs[0].shape[1:]], tf.float32, name="image")
    function = tf.function(logits, input_signature=[image], autograph=False)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], network
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    try:
        with without_notes(), without_lines(_NOTICE):
            return converter.convert()
    except Exception as error:  # ConverterError, RuntimeError, ValueError
        raise EnsembleError(
            f"TFLite can't quantize the network: {first_line(error)} Check that its layers are "
            "among those that TFLite has int8 kernels for."
        ) from error


def _take_pixels(module: Module, normalization: Normalization) -> None:
    """Lets the graph take raw pixels, and gives its input and output the names of a member's."""
    graph = module.graph
    (network_input,), (logits,) = graph.inputs, graph.outputs
    image = graph.add(Tensor(network_input.shape, "float32"))
    steps = [
        (name, values)
        for name, values, nothing in (
            ("Mul", normalization.scale, 1),
            ("Add", normalization.offset, 0),
        )
        if (values != nothing).any()
    ]
    x, operators = image, []
    for name, values in steps:
        y = graph.add(Tensor(image.shape, "float32"))
        constant = graph.add(Tensor.constant(values))
        operators.append(Operator(name.upper(), (x, constant), (y,), options(f"{name}Options")))
        x = y
    graph.replace_uses(network_input, x)
    for op in reversed(operators):
        graph.insert(op)
    graph.inputs = [image]
    graph.signature = Signature("member_0", {"image": image}, {"logits": logits})


def _loss(
    network: keras.Model,
    normalization: Normalization,
    data: bytes,
    weights: str,
    representative: int,
    splits: Splits | None,
) -> QuantizationLoss:
    """Compares a file's bytes with Keras, on held-out images if there are some.

    # Raises
        EnsembleError: if the file computes something else.
    """
    file = checked_ensemble(data)
    labels = None
    if splits is None:
        split, images = "random", some_images(file.metadata.input_shape)
    else:
        held_out = splits.validation
        split, part = ("validation", held_out) if len(held_out) else ("training", splits.train)
        chosen = part.take(_places(part, COMPARED))
        images, labels = np.asarray(chosen.images), chosen.labels
    (ours,) = member_logits(file, images, [0])
    expected = float_logits(network, normalization, images)
    distance = deviation(ours, expected)
    if not distance <= LIMIT and not is_untrained(network):
        raise EnsembleError(
            f"The quantized network doesn't compute what Keras computes: the logits differ by "
            f"{distance:.2g} of their length on {len(images)} images. Nothing was written. Some "
            "activations may have a range that 8 bits can't hold."
        )
    classes = ours.argmax(-1), expected.argmax(-1)
    top1, float_top1 = (
        None if labels is None else 100 * float((found == labels).mean()) for found in classes
    )
    return QuantizationLoss(
        weights=weights,
        representative_images=representative,
        compared_images=len(images),
        split=split,
        argmax_agreement=float((classes[0] == classes[1]).mean()),
        float_top1=float_top1,
        top1=top1,
    )
