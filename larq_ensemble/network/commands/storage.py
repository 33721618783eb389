"""`larq-ensemble storage`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from larq_ensemble.console.reporting import json_option, reporting
from larq_ensemble.network.commands.options import model_option

if TYPE_CHECKING:
    from larq_ensemble.network.storage import Size


@click.command("storage", short_help="What an ensemble takes to store, without training.")
@model_option
@click.option("--classes", type=click.IntRange(2), default=100, show_default=True)
@click.option(
    "--members", type=click.IntRange(1), default=4, show_default=True, help="M, how many."
)
@click.option(
    "--sharing",
    default="fusion",
    show_default=True,
    help="What members share: fusion, all_frozen, c1, c2, c3, none, or re:EXPR, a regular "
    "expression that matches the names of the layers to share.",
)
@click.option("--width", type=float, default=1.0, show_default=True, help="Multiplies channels.")
@click.option(
    "--channels", type=click.IntRange(1), default=3, show_default=True, help="Of the images."
)
@json_option
def command(
    model_name: str,
    classes: int,
    members: int,
    sharing: str,
    width: float,
    channels: int,
    json_target: str | None,
) -> None:
    """Count the storage of an ensemble: by block, by content, by sharing policy, and against
    other systems of M members.

    Paper bits are what Kim et al. 2022 count in Table 1: weights of one network, without batch
    norm, activation parameters, biases and scales. Bytes are all that a device stores, with batch
    norm folded to two values a channel.

    \b
    Examples:
      larq-ensemble storage --model resnet20 --classes 100 --members 10
      larq-ensemble storage --sharing all_frozen --classes 10 --json -
      larq-ensemble storage --sharing 're:.*_conv[12]' --members 4
    """
    from larq_ensemble.network.architectures import MODELS, trace_model
    from larq_ensemble.network.sharing import POLICIES, parse_sharing
    from larq_ensemble.network.storage import account, compare_systems

    with reporting(json_target) as report:
        graph = trace_model(model_name, channels=channels, classes=classes, width=width)
        counted = account(graph, members=members, sharing=parse_sharing(sharing))
        report.result = {
            "model": model_name,
            "classes": classes,
            "width": width,
            "channels": channels,
            "sharing": sharing,
            **counted.to_json(),
        }
        for what, sizes in (
            ("block", counted.blocks),
            ("content", {content.value: size for content, size in counted.contents.items()}),
        ):
            report.table(
                f"{model_name}, {classes} classes, sharing {sharing}, by {what}",
                [what, "paper bits", "shared bytes", "bytes a member", f"bytes, M = {members}"],
                [
                    _size_row(name, size, members)
                    for name, size in [*sizes.items(), ("all", counted.size)]
                ],
            )
        by_sharing = {name: account(graph, members=members, sharing=name) for name in POLICIES}
        by_sharing[sharing] = counted
        report.table(
            f"M = {members}, by sharing",
            ["sharing", "shared bytes", "bytes a member", "bytes in all", "% of separate networks"],
            [
                [
                    name,
                    _bytes(other.shared_bits),
                    _bytes(other.member_bits),
                    _bytes(other.total_bits),
                    100 * other.total_bits / other.separate_bits,
                ]
                for name, other in by_sharing.items()
            ],
        )
        name = model_name.removesuffix("_real")
        if f"{name}_real" in MODELS:
            binarized, real_valued = (
                trace_model(model, channels=channels, classes=classes, width=width)
                for model in (name, f"{name}_real")
            )
            systems = compare_systems(
                binarized, real_valued, members=members, sharing=parse_sharing(sharing)
            )
            report.result["systems"] = {
                system: other.total_bits for system, other in systems.items()
            }
            report.table(
                f"M = {members}, sharing {sharing}, by system",
                ["system", "bytes in all", "% of BENN", "% of real-valued"],
                [
                    [
                        system,
                        _bytes(other.total_bits),
                        100 * other.total_bits / systems["BENN"].total_bits,
                        100 * other.total_bits / systems["real-valued"].total_bits,
                    ]
                    for system, other in systems.items()
                ],
            )
        report.line(
            f"{members} x {_bytes(counted.network_bits):,} bytes = "
            f"{_bytes(counted.separate_bits):,} bytes as separate networks, "
            f"{_bytes(counted.total_bits):,} bytes sharing {sharing}."
        )


def _size_row(name: str, size: Size, members: int) -> list[Any]:
    return [
        name,
        size.paper_bits,
        _bytes(size.shared_bits),
        _bytes(size.member_bits),
        _bytes(size.shared_bits + members * size.member_bits),
    ]


def _bytes(bits: int) -> int:
    """The whole bytes that hold so many bits."""
    return -(-bits // 8)
