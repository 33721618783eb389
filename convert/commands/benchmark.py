"""`larq-ensemble benchmark`."""

from __future__ import annotations

import click

from larq_ensemble.console.options import INPUT, TFLITE, member_counts, normalization_option
from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.runtime.commands.options import compared_backends_option


@click.command("benchmark", short_help="Latency and memory on this machine.")
@click.argument("tflite", type=TFLITE, metavar="F.tflite|NAME")
@click.option(
    "--members",
    type=member_counts,
    metavar="m,m,...",
    help="Numbers of members to time  [default: 1, 2, 4, ... and all]",
)
@click.option(
    "--run",
    type=INPUT,
    metavar="RUN|F.keras|NAME",
    help="The run, or the Keras file, that the file comes from: compare with its members as "
    "separate models too.",
)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Of the interpreters."
)
@click.option(
    "--repetitions",
    type=click.IntRange(1),
    metavar="N",
    help="How often everything is timed  [default: for 10 seconds, at least 10 times]",
)
@compared_backends_option
@normalization_option
@json_option
def command(
    tflite: str,
    members: tuple[int, ...] | None,
    run: str | None,
    threads: int,
    repetitions: int | None,
    backend: str | None,
    normalization: str | None,
    json_target: str | None,
) -> None:
    """Time the prediction of one image by the first m members.

    Every repetition times all contenders, and ratios compare times of the same repetition, so other
    load on the machine hardly matters. Without --backend, all that are installed run the file side
    by side. LCE is fast on ARM only: elsewhere trust the ratios, not the times. The memory is what
    a new process holds once it has run all members.

    docs/guides/deployment.md says how to measure on a phone. Only --run needs TensorFlow.

    \b
    Examples:
      larq-ensemble benchmark ensemble.tflite
      larq-ensemble benchmark ensemble.tflite --members 1,4 --run runs/fusion --json -
    """
    from larq_ensemble.convert.benchmarking import benchmark
    from larq_ensemble.runtime.backends import delegate
    from larq_ensemble.runtime.file import read_ensemble
    from larq_ensemble.trained import open_trained

    with reporting(json_target) as report:
        result = benchmark(
            tflite,
            members,
            run=None if run is None else open_trained(run, normalization=normalization),
            threads=threads,
            repetitions=repetitions,
            backend=backend,
            progress=report.line,
        )
        report.result = result.to_dict()
        is_for_lce = read_ensemble(tflite).metadata.target == "lce"
        if is_for_lce and result.kernel == "builtin" and not delegate.path().is_file():
            report.line(
                "This installation has no delegate, so builtin operators ran: the binary "
                "convolutions are faster where a C compiler, or the wheel for this machine, was "
                "there at installation."
            )
        title = f"{tflite} on {result.backend} ({result.kernel})"
        threads = result.threads
        report.table(
            f"{title}, one image, {threads} thread{'s'[: threads > 1]}: medians (quartiles) of "
            f"{result.repetitions:,} repetitions",
            ["m", "against", "ratio", "this file ms", "the other ms"],
            [
                [
                    str(item.members),
                    item.against,
                    *(
                        f"{spread.median:.{digits}f} ({spread.low:.{digits}f} to "
                        f"{spread.high:.{digits}f})"
                        for spread, digits in (
                            (item.ratio, 3), (item.latency_ms, 2), (item.other_ms, 2)
                        )
                    ),
                ]
                for item in result.comparisons
            ],
        )  # fmt: skip
        report.table(
            f"{tflite}: {result.bytes:,} bytes, arenas of about {result.arena_bytes:,}; memory of "
            "a process that runs all members",
            ["back end", "kernel", "resident bytes"],
            [
                [name, kernel, "not known here" if size is None else f"{size:,}"]
                for (name, size), kernel in zip(
                    result.resident_bytes.items(),
                    (result.kernel, *result.other_backends.values()),
                )
            ],
        )
