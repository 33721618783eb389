"""`larq-ensemble convert`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from larq_ensemble.console.options import (
    INPUT,
    OutputFile,
    data_dir_option,
    dataset_option,
    normalization_option,
)
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import is_same_file
from larq_ensemble.legalization import FILTERS
from larq_ensemble.pretrained.catalog import found, or_a_name
from larq_ensemble.runtime.metadata import HEADS, LAYOUTS, PRECISIONS, QUANTIZATIONS, TARGETS
from larq_ensemble.trained import KerasFile, is_keras_file, open_trained

if TYPE_CHECKING:
    from larq_ensemble.convert.report import ConversionReport


@click.command("convert", short_help="One .tflite file for Larq Compute Engine or LiteRT.")
@click.argument("source", type=INPUT, metavar="RUN|F.keras|F.tflite|NAME")
@click.option(
    "--out", type=OutputFile(), required=True, metavar="F.tflite", help="The file to write."
)
@click.option(
    "--members",
    type=click.IntRange(1),
    metavar="m",
    help="Only the first m members  [default: all]",
)
@click.option(
    "--layout",
    type=click.Choice(["auto", *LAYOUTS]),
    default="auto",
    show_default=True,
    help="How the file holds its members; auto: subgraphs where members own binary filters, else "
    "indexed.",
)
@click.option(
    "--heads",
    type=click.Choice(HEADS),
    default="float32",
    show_default=True,
    help="Number format of the linear layer's weights; int8 has a scale for each class.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="float32",
    show_default=True,
    help="Number format of the members' other values: compact stores a few bits for each.",
)
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    default="lce",
    show_default=True,
    help="Which runtimes the file is for: lce, Larq Compute Engine and this package; litert, any "
    "TFLite runtime, because the file has builtin operators only.",
)
@click.option(
    "--filters",
    type=click.Choice(FILTERS),
    help="How a file for litert stores binary filters: int8, a byte a weight, runs fastest; 1bit, "
    "a bit a weight, is smallest  [default: int8]",
)
@click.option(
    "--quantize",
    type=click.Choice(QUANTIZATIONS),
    help="Of a real-valued network: a file for litert that computes in integers, with weights of 8 "
    "bits, or of 4 in all convolutions but the first. Training images show the range of each "
    "tensor.",
)
@dataset_option
@normalization_option
@data_dir_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    source: str,
    out: str,
    members: int | None,
    layout: str,
    heads: str,
    precision: str,
    target: str,
    filters: str | None,
    quantize: str | None,
    dataset: str | None,
    normalization: str | None,
    data_dir: str | None,
    json_target: str | None,
) -> None:
    """Convert a trained ensemble to one .tflite file, or such a file for other runtimes.

    The file takes raw pixels. It holds each shared filter once, the values that members own, and
    metadata. A backbone becomes an ensemble of one member. Of what Keras saved --dataset gives the
    names of the classes. A file can be cut to its first members, which stay as they are, and
    written for stock TFLite runtimes (--target litert); neither needs TensorFlow. Of a NAME, a
    network that comes with the package, it is the file with its calibration that is cut or written,
    unless an option, such as --heads, asks for another one, made of the Keras weights.

    A real-valued network is written in floats, or in integers (--quantize), as one would deploy it
    without binarization; its accuracy before and after is measured on held-out images.

    Before the file is written, some members' logits are compared with those of Keras, or of the
    file that was converted, on a few random images.

    \b
    Examples:
      larq-ensemble convert runs/fusion --out ensemble.tflite
      larq-ensemble convert runs/fusion --out small.tflite --heads int8 --precision compact
      larq-ensemble convert ensemble.keras --dataset folder:photos --out ensemble.tflite
      larq-ensemble convert ensemble.tflite --members 4 --out four.tflite
      larq-ensemble convert cifar100-deploynet8-nested8 --members 2 --out two.tflite
      larq-ensemble convert ensemble.tflite --target litert --out stock.tflite
      larq-ensemble convert runs/fusion --target litert --filters 1bit --out stock.tflite
      larq-ensemble convert runs/real --quantize int8 --out int8.tflite
    """
    if quantize is not None:
        _refuse_options_of_ensembles(context)
    elif filters is not None and target == "lce":
        raise click.UsageError(
            "--filters needs --target litert: a file for Larq Compute Engine packs its filters in "
            "one way."
        )
    with reporting(json_target) as report:
        if not os.path.lexists(source) and found(source) is None:
            raise EnsembleError(
                f"No run at {source!r}, and no file: give the directory of a run, an ensemble that "
                f"Keras saved, a .tflite file, {or_a_name()}."
            )
        file = _file_of(context, source)
        is_cut_in_place = file is not None and not _is_given(context, "target")
        if is_same_file(source, out) and not is_cut_in_place:
            raise EnsembleError(
                f"--out {out!r} is what is converted, and would be lost: name another file."
            )
        if file is not None:
            converted = _converted_file(context, file, out)
        else:
            trained = open_trained(
                source, dataset=dataset, data_dir=data_dir, normalization=normalization
            )
            may_need_data = isinstance(trained, KerasFile) or quantize is not None
            if dataset is not None and not may_need_data:
                raise click.UsageError(
                    "--dataset has no effect on a run, which knows its classes: leave it out. It "
                    "is for Keras files, and for --quantize."
                )
            if data_dir is not None and dataset is None and quantize is None:
                raise click.UsageError(
                    "--data-dir has no effect without --dataset or --quantize, which read data: "
                    "leave it out."
                )
            if quantize is not None:
                from larq_ensemble.convert.quantization import quantize_run

                converted = quantize_run(
                    trained, out, weights=quantize, dataset=dataset, data_dir=data_dir
                )
            else:
                from larq_ensemble.convert.conversion import convert_run

                converted = convert_run(
                    trained,
                    out,
                    members=members,
                    layout=layout,
                    heads=heads,
                    precision=precision,
                    target=target,
                    filters=filters,
                )
        report.result = converted.to_dict()
        report.line(
            f"Wrote {out}: {converted.bytes:,} bytes, {converted.ratio:.3f} times the "
            f"lower bound of {converted.lower_bound_bytes:,} bytes, in {converted.seconds:.1f} s."
        )
        if file is None and found(source) is not None:
            report.line("Made of the Keras weights, without the calibration of the package's file.")
        if (agreement := converted.agreement) is not None:
            report.line(
                f"On {agreement.images} random images the logits of members "
                f"{', '.join(map(str, agreement.members))} differ from those of "
                f"{'Keras' if file is None else source} by "
                f"{max(agreement.deviation):.1g} of their length (at most {agreement.limit} "
                "passes). `larq-ensemble verify` compares classes on test images."
            )

        if (loss := converted.quantization) is not None:
            images = f"On {loss.compared_images:,} {loss.split} images"
            same = f"{100 * loss.argmax_agreement:.1f} % get the same class"
            report.line(
                f"{images} {same} as in Keras."
                if loss.top1 is None
                else f"{images} top-1 is {loss.float_top1:.2f} % in Keras and {loss.top1:.2f} % in "
                f"the file; {same}."
            )


def _refuse_options_of_ensembles(context: click.Context) -> None:
    """Refuses what a quantized network has no use for."""
    for option in ("members", "layout", "heads", "precision", "filters"):
        if _is_given(context, option):
            raise click.UsageError(
                f"--{option} has no effect with --quantize, which writes one network in one form: "
                "leave it out."
            )
    if _is_given(context, "target") and context.params["target"] != "litert":
        raise click.UsageError(
            "--quantize writes builtin operators, a file for litert: leave --target out."
        )


#: What makes another file of Keras weights.
_FORMS = ("layout", "heads", "precision", "quantize")


def _file_of(context: click.Context, source: str) -> str | None:
    """The file to cut or to write for another target; `None`: the network is in Keras."""
    if (shipped := found(source)) is None:
        is_file = Path(source).is_file() and not is_keras_file(source)
        return source if is_file else None
    asks = context.params["members"] is not None or context.params["target"] != "lce"
    of_keras = any(_is_given(context, option) for option in _FORMS)
    return str(shipped.tflite) if asks and not of_keras else None


def _converted_file(context: click.Context, source: str, out: str) -> ConversionReport:
    """Cuts a file, or writes it for another target."""
    from larq_ensemble.runtime.file import is_tflite, read_ensemble

    if not is_tflite(source):
        raise EnsembleError(
            f"{source!r} is no .tflite model, no run and no Keras file: give one of these, "
            f"{or_a_name()}."
        )
    for option in (*_FORMS, "dataset", "normalization", "data_dir"):
        if _is_given(context, option):
            raise click.UsageError(
                f"--{option.replace('_', '-')} needs a run or a Keras file: a .tflite file, as "
                "that of a network of the package, can only be cut, or written for another target. "
                "Leave it out."
            )
    members, target, filters = (context.params[name] for name in ("members", "target", "filters"))
    metadata = read_ensemble(source).metadata
    is_for_it = members is not None and metadata.target == target
    if is_for_it and filters not in (None, metadata.filters):
        raise click.UsageError(
            f"--filters {filters} is not how {source!r} stores them, {metadata.filters}, and a cut "
            "file keeps its filters: leave it out, or convert the run, or a file for lce."
        )
    if _is_given(context, "target") and not is_for_it:
        from larq_ensemble.convert.file_conversion import convert_file

        return convert_file(source, out, target=target, filters=filters, members=members)
    if members is None:
        raise click.UsageError(
            "--members is needed for a .tflite file, how many of its members stay, or --target "
            "litert."
        )
    from larq_ensemble.convert.cutting import cut_file

    return cut_file(source, out, members)


def _is_given(context: click.Context, option: str) -> bool:
    return context.get_parameter_source(option) is not ParameterSource.DEFAULT
