"""`larq-ensemble storage`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import click

from larq_ensemble.console.options import members_option, width_option
from larq_ensemble.console.reporting import Report, json_option, reporting
from larq_ensemble.network.commands.options import model_option

if TYPE_CHECKING:
    from larq_ensemble.network.graph import LayerGraph
    from larq_ensemble.network.storage import StorageReport


@click.command("storage", short_help="Storage and compute of an ensemble, without training.")
@model_option
@click.option("--classes", type=click.IntRange(2), default=100, show_default=True)
@members_option
@click.option(
    "--sharing",
    default="fusion",
    show_default=True,
    help="What members share: fusion, all_frozen, c1, c2, c3, none, or re:EXPR, a regular "
    "expression that matches the names of the layers to share.",
)
@width_option
@click.option(
    "--channels", type=click.IntRange(1), default=3, show_default=True, help="Of the images."
)
@click.option(
    "--size",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Height and width of the images, for the multiply-accumulates.",
)
@json_option
def command(
    model_name: str,
    classes: int,
    members: int,
    sharing: str,
    width: float,
    channels: int,
    size: int,
    json_target: str | None,
) -> None:
    """Count the storage of an ensemble: by block, by content, by sharing policy, and against
    other systems of M members. Also count the multiply-accumulates of a member for one image.

    Paper bits are what Kim et al. 2022 count in Table 1: weights of one network, without batch
    norm, activation parameters, biases and scales. Bytes are all that a device stores, with batch
    norm folded to two values per channel.

    \b
    Examples:
      larq-ensemble storage --model resnet20 --classes 100 --members 10
      larq-ensemble storage --sharing all_frozen --classes 10 --json -
      larq-ensemble storage --sharing 're:.*_conv[12]' --members 4
    """
    from larq_ensemble.network.architectures import trace_model
    from larq_ensemble.network.compute import count_macs
    from larq_ensemble.network.sharing import notes, parse_sharing
    from larq_ensemble.network.storage import account

    with reporting(json_target) as report:
        arguments: dict[str, Any] = {
            "input_shape": (size, size, channels),
            "classes": classes,
            "width": width,
        }
        graph = trace_model(model_name, **arguments)
        macs = count_macs(graph)
        counted = account(graph, members=members, sharing=parse_sharing(sharing))
        report.result = {
            "model": model_name,
            "classes": classes,
            "width": width,
            "channels": channels,
            "size": size,
            "sharing": sharing,
            "binary_macs": macs.binary,
            "real_macs": macs.real,
            "notes": notes(sharing, graph),
            **counted.to_json(),
        }
        title = f"{model_name}, {classes} classes, sharing {sharing}"
        _print_parts(report, title, counted)
        _print_policies(report, graph, counted, sharing)
        _print_systems(report, model_name, arguments, members, sharing)
        report.line(
            f"{members} x {_bytes(counted.network_bits):,} bytes = "
            f"{_bytes(counted.separate_bits):,} bytes as separate networks, "
            f"{_bytes(counted.total_bits):,} bytes sharing {sharing}."
        )
        report.line(
            f"Multiply-accumulates of a member for a {size}x{size} image: {macs.binary:,} binary, "
            f"{macs.real:,} real."
        )
        for note in report.result["notes"]:
            warnings.warn(note, stacklevel=1)


def _print_parts(report: Report, title: str, counted: StorageReport) -> None:
    """Prints the size of each block and of each content."""
    members = counted.members
    for what, parts in (
        ("block", counted.blocks),
        ("content", {content.value: size for content, size in counted.contents.items()}),
    ):
        report.table(
            f"{title}, by {what}",
            [what, "paper bits", "shared bytes", "bytes per member", f"bytes, M = {members}"],
            [
                [
                    name,
                    size.paper_bits,
                    _bytes(size.shared_bits),
                    _bytes(size.member_bits),
                    _bytes(size.shared_bits + members * size.member_bits),
                ]
                for name, size in [*parts.items(), ("all", counted.size)]
            ],
        )


def _print_policies(
    report: Report, graph: LayerGraph, counted: StorageReport, sharing: str
) -> None:
    """Prints the size of the ensemble by every sharing policy, and by `sharing`."""
    from larq_ensemble.network.sharing import POLICIES
    from larq_ensemble.network.storage import account

    members = counted.members
    reports = {name: account(graph, members=members, sharing=name) for name in POLICIES}
    reports[sharing] = counted
    report.table(
        f"M = {members}, by sharing",
        ["sharing", "shared bytes", "bytes per member", "bytes in all", "% of separate networks"],
        [
            [
                name,
                _bytes(other.shared_bits),
                _bytes(other.member_bits),
                _bytes(other.total_bits),
                100 * other.total_bits / other.separate_bits,
            ]
            for name, other in reports.items()
        ],
    )


def _print_systems(
    report: Report, model_name: str, arguments: dict[str, Any], members: int, sharing: str
) -> None:
    """Prints the size of the systems of the paper, if the model has a real-valued twin."""
    from larq_ensemble.network.architectures import MODELS, trace_model
    from larq_ensemble.network.sharing import parse_sharing
    from larq_ensemble.network.storage import compare_systems

    binarized = model_name.removesuffix("_real")
    real_valued = f"{binarized}_real"
    if real_valued not in MODELS:
        return
    systems = compare_systems(
        trace_model(binarized, **arguments),
        trace_model(real_valued, **arguments),
        members=members,
        sharing=parse_sharing(sharing),
    )
    report.result["systems"] = {name: other.total_bits for name, other in systems.items()}
    report.table(
        f"M = {members}, sharing {sharing}, by system",
        ["system", "bytes in all", "% of BENN", "% of real-valued"],
        [
            [
                name,
                _bytes(other.total_bits),
                100 * other.total_bits / systems["BENN"].total_bits,
                100 * other.total_bits / systems["real-valued"].total_bits,
            ]
            for name, other in systems.items()
        ],
    )


def _bytes(bits: int) -> int:
    """Bits as whole bytes, rounded up."""
    return -(-bits // 8)
