"""A converted file for other runtimes, without TensorFlow."""

from __future__ import annotations

import dataclasses
import os
import time

from larq_ensemble.convert.comparison import (
    Agreement,
    compared_members,
    member_logits,
    some_images,
)
from larq_ensemble.convert.cutting import cut
from larq_ensemble.convert.report import ConversionReport, write_file
from larq_ensemble.convert.targets import checked_filters
from larq_ensemble.convert.targets.litert import legalized_ensemble
from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import check_output
from larq_ensemble.runtime.file import EnsembleFile, checked_ensemble, read_ensemble

#: The largest deviation of a file from the one that it was made of, whose values are the same.
LIMIT = 0.1


def convert_file(
    tflite: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    target: str = "litert",
    filters: str | None = None,
    members: int | None = None,
) -> ConversionReport:
    """Writes a file for Larq Compute Engine (LCE) anew, for runtimes that don't have its operators.

    The file computes the same values, up to rounding. Its layout, signatures and metadata stay.
    Neither TensorFlow nor LCE is needed. `cut_file` cuts any file to its first members and leaves
    its operators as they are.

    # Arguments
        tflite: a file that `convert` wrote for LCE.
        path: where to write; an existing file is replaced only on success.
        target: `"litert"`: builtin operators of TFLite only.
        filters: how binary filters are stored: `"int8"`, a byte a weight, with which the file runs
            fastest; `"1bit"`, a bit a weight, unpacked at run time. `None`: `"int8"`.
        members: only the first m members; `None`: all.

    # Returns
        The size in bytes, the lower bound, the duration, and how the logits agree with those of
        `tflite` on a few random images.

    # Raises
        EnsembleError: if `tflite` can't be read or converted, or was written for this target, an
            argument is out of range, the files don't compute the same, or `path` can't be written.

    # Example
    ```python
    convert_file("ensemble.tflite", "stock.tflite", filters="1bit")
    ```
    """
    start = time.perf_counter()
    filters = checked_filters(target, filters)
    check_output(path)
    source = read_ensemble(tflite)
    if target == source.metadata.target or target == "lce":
        raise EnsembleError(
            f"{str(tflite)!r} was written for `target={source.metadata.target!r}` and can't be "
            f"converted for {target!r}: give the run, or the file for Larq Compute Engine that it "
            "was made of. `larq_ensemble.convert.cut_file` cuts it to its first members, as on "
            "the command line `members` without `target` does."
        )
    if members is not None:
        source = checked_ensemble(cut(source.data, source.metadata.first(members)))
    # What was counted was counted with the operators of the file before.
    metadata = dataclasses.replace(source.metadata, target=target, filters=filters, instructions={})
    data = legalized_ensemble(source.data, metadata)
    agreement = _check_same_values(checked_ensemble(data), source)
    return write_file(data, metadata, path, start, agreement)


def _check_same_values(file: EnsembleFile, source: EnsembleFile) -> Agreement:
    """Compares the logits of up to three members in two files.

    # Raises
        EnsembleError: if a member's deviation is above the limit.
    """
    images = some_images(source.metadata.input_shape)
    members = compared_members(source.metadata.members)
    ours, expected = (member_logits(each, images, members) for each in (file, source))
    agreement = Agreement.of(ours, expected, members, limit=LIMIT)
    if not all(found <= agreement.limit for found in agreement.deviation):  # nan, too
        raise EnsembleError(
            "The new file doesn't compute what the file for Larq Compute Engine computes: the "
            f"logits differ by {max(agreement.deviation):.2g} of their length, and those of a "
            f"correct conversion by less than {agreement.limit}. Nothing was written. This is a "
            "fault of the converter: please report the network's layers."
        )
    return agreement
