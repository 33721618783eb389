"""`larq-ensemble export`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from larq_ensemble.console.options import TFLITE, CommaSeparated, OutputFolder
from larq_ensemble.console.reporting import Report, json_option, reporting
from larq_ensemble.convert.emulation import BOARDS, COUNTED, EmulationError, missing_packages

if TYPE_CHECKING:
    from larq_ensemble.convert.export import ExportReport

_CPUS = ", ".join(BOARDS)


@click.command("export", short_help="C source for microcontrollers.")
@click.argument("tflite", type=TFLITE, metavar="F.tflite|NAME")
@click.option("--out", type=OutputFolder(), required=True, metavar="DIR", help="Folder to write.")
@click.option(
    "--name",
    default="ensemble",
    show_default=True,
    help="Of the two files, and what the names of functions and macros begin with.",
)
@click.option(
    "--members",
    type=click.IntRange(1),
    metavar="m",
    help="Only the first m members  [default: all]",
)
@click.option(
    "--activations",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Number format of the maps in RAM that aren't bits: float16 takes half of it.",
)
@click.option(
    "--cpu",
    "cpus",
    type=CommaSeparated(
        "CPU,...",
        click.Choice(list(BOARDS)),
        f"processors among {_CPUS}",
        dict.fromkeys,
    ),
    metavar="CPU,...",
    help=f"Processors to count instructions on, of {_CPUS}  [default: "
    f"{','.join(COUNTED)}, if the tools are installed]",
)
@click.option("--no-count", is_flag=True, help="Don't count.")
@json_option
def command(
    tflite: str,
    out: str,
    name: str,
    members: int | None,
    activations: str,
    cpus: tuple[str, ...] | None,
    no_count: bool,
    json_target: str | None,
) -> None:
    """Write an ensemble as C99 source for a microcontroller: one header, one source file.

    The source needs nothing but C's own library: no runtime, no file system, no heap. All filters
    and values are constants, so they stay in flash; RAM is one arena, whose size the header says.
    The file must be one for Larq Compute Engine. Needs no TensorFlow.

    With a C compiler (cc) the source is compiled for this machine first, and nothing is written if
    it computes something else than the file. With a cross compiler and QEMU, the instructions that
    an image and a member take are counted on emulated boards.

    \b
    Examples:
      larq-ensemble export ensemble.tflite --out firmware/ensemble
      larq-ensemble export ensemble.tflite --out firmware/ensemble --members 4 --activations float16
      larq-ensemble export cifar100-deploynet8-nested8 --out c --cpu cortex-m33 --json -
    """
    from larq_ensemble.convert.export import export_file

    if no_count and cpus:
        raise click.UsageError("--cpu names processors to count on: leave --no-count out.")
    missing = [] if no_count or cpus else missing_packages()
    counted = () if no_count or missing else cpus or COUNTED
    reason = f"that needs the Debian packages {' '.join(missing)}." if missing else ""
    with reporting(json_target) as report:
        export = partial(
            export_file, tflite, out, name=name, members=members, activations=activations
        )
        try:
            exported = export(cpus=counted)
        except EmulationError as error:
            if cpus:
                raise
            # Nobody asked for it: as where the tools are missing.
            exported, reason = export(), str(error)
        report.result = exported.to_dict()
        _print(report, exported)
        if reason:
            report.line(f"No instructions are counted: {reason}")


def _print(report: Report, exported: ExportReport) -> None:
    report.line(f"Wrote {' and '.join(exported.files)}.")
    if (agreement := exported.agreement) is not None:
        report.line(
            "Compiled for this machine, members' logits differ from the runtime's by at most "
            f"{max(agreement.deviation):.1g} of their length on {agreement.images} random images "
            f"({agreement.limit:g} passes)."
        )
    else:
        report.line(f"Not compared with the runtime: {exported.not_compared}")
    report.table(
        "Flash: constants",
        ["purpose", "bytes", "%"],
        [
            [purpose, size, 100 * size / exported.bytes]
            for purpose, size in [*exported.flash.items(), ("sum", exported.bytes)]
        ],
    )
    image, member = (exported.macs[part] for part in ("image", "member"))
    report.line(f"RAM: an arena of {exported.arena_bytes:,} bytes, the image and the stack.")
    report.line(
        f"Multiply-accumulates: {image.binary:,} binary and {image.real:,} real once an image; "
        f"{member.binary:,} binary and {member.real:,} real for each member."
    )
    if exported.costs:
        report.table(
            "Counted on emulated boards, gcc -O2",
            [
                "processor",
                "instructions once",
                "for a member",
                f"for all {exported.members}",
                "code, bytes of flash",
                "stack, bytes",
            ],
            [
                [
                    cpu,
                    cost.image,
                    cost.member,
                    cost.image + exported.members * cost.member,
                    cost.code_bytes,
                    cost.stack_bytes,
                ]
                for cpu, cost in exported.costs.items()
            ],
        )
