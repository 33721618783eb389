"""Model cards as Markdown: what a network is, how it was trained, and what was measured.

A card is the JSON file beside a network's weights, which `tools/pretrained/ship.py` writes from the
results of the commands. Its entries:

    name, kind, members, model, data    what it is; `run_hash` of the run's model, and in `ensemble`
                                        that of its backbone
    training                            each stage: recipe, seed, versions, results, the digest
                                        of its model, and those of the stages it builds on
    accuracy                            of the `.tflite` file on the test split, for the first m
                                        members; `seeds`: of other trainings
    files                               bytes and SHA-256; of an ensemble `cut`: bytes of the file
                                        cut to its first m members
    instructions                        arm64 instructions of the image and of a member
    agreement                           of the file with Keras
    samples                             predictions for the embedded test images
    commands, date, commit, licence     where all of this comes from
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from larq_ensemble.console.markdown import markdown_table
from larq_ensemble.console.wording import counted
from larq_ensemble.pretrained.weights import keeps_single

Card = dict[str, Any]


def heading(card: Card) -> str:
    """What a network is, in one sentence."""
    model, data = card["model"], card["data"]
    width = "" if model["width"] == 1 else f" of width {model['width']:g}"
    network = f"{model['name']}{width} for the {data['classes']} classes of {data['name']}"
    if card["members"] == 1:
        return f"One binarized network, {network}: a backbone to build ensembles from."
    ensemble = card["ensemble"]
    mirrored = " Every second member sees the image mirrored." if ensemble.get("mirror") else ""
    return (
        f"An ensemble of {card['members']} members (scheme {ensemble['scheme']}, policy "
        f"{ensemble['sharing']}) that share the binary filters of one {network}.{mirrored}"
    )


def has_single(card: Card) -> bool:
    """Whether a network is a single one, or an ensemble that keeps one as its first member."""
    return card["kind"] == "backbone" or keeps_single(card["training"][-1]["ensemble"])


def instructions_of_a_member(card: Card, core: str = "cortex-a72") -> int | None:
    """Counted arm64 instructions of a member after the trunk; `None`: not counted."""
    counted = card["instructions"].get(core)
    return None if counted is None else int(counted["member"])


def bytes_by_members(card: Card) -> list[int]:
    """Bytes of the `.tflite` file if it is cut to its first m members, for each m."""
    tflite = card["files"]["tflite"]
    return [*tflite["cut"]["bytes"]] if card["members"] > 1 else [int(tflite["bytes"])]


def markdown(card: Card) -> str:
    """The card as a page."""
    parts = [f"# {card['name']}", heading(card), _usage(card)]
    for title, text in (
        ("Accuracy", _accuracy(card)),
        ("Size and cost", _cost(card)),
        ("Training", _training(card)),
        ("Data", _data(card)),
        ("Where the figures come from", _provenance(card)),
    ):
        parts += [f"## {title}", text]
    return "\n\n".join(parts) + "\n"


def _usage(card: Card) -> str:
    name = card["name"]
    functions, python = [], []
    if has_single(card):
        functions.append("build_model")
        end = "" if card["members"] == 1 else "  # its member 0"
        python.append(f'backbone = build_model("{card["model"]["name"]}", weights="{name}"){end}')
    if card["members"] > 1:
        functions.append("load_ensemble")
        python.append(f'ensemble = load_ensemble("{name}")')
    code = "\n".join([f"from larq_ensemble import {', '.join(functions)}", "", *python])
    return (
        f"    larq-ensemble predict {name} photo.png\n"
        f"    larq-ensemble pretrained {name} --out {name}.tflite\n\n"
        f"```python\n{code}\n```"
    )


def _accuracy(card: Card) -> str:
    accuracy = card["accuracy"]
    low, high = (f"95 % {end}" for end in ("from", "to"))
    columns = ["first m members", "bytes", "top-1 %", low, high, "top-5 %", "NLL", "ECE"]
    table = markdown_table(
        [*columns, "calibrated ECE"],
        [
            [
                row["members"],
                f"{size:,}",
                *(f"{row[key]:.2f}" for key in ("top1", "low", "high", "top5")),
                f"{row['nll']:.3f}",
                f"{row['ece']:.4f}",
                f"{row['calibrated_ece']:.4f}",
            ]
            for row, size in zip(accuracy["by_members"], bytes_by_members(card), strict=True)
        ],
    )
    lines = [
        f"The file on {accuracy['images']:,} test images of {card['data']['name']}, run by "
        f"{accuracy['backend']} ({accuracy['kernel']}). The interval is Wilson's, of this one "
        "network: it says how far chance in the test images goes. ECE has 15 bins.",
        table,
    ]
    if card["members"] > 1:
        lines += _cutting(card)
    if (cascade := accuracy.get("cascade")) is not None:
        lines.append(
            f"The cascade in the file (`--adaptive`): {cascade['top1']:.2f} % with "
            f"{cascade['mean_members']:.2f} members per image on average."
        )
    if seeds := accuracy["seeds"]:
        each = ", ".join(f"{seed['top1']:.2f} % (seed {seed['seed']})" for seed in seeds)
        lines.append(f"Other trainings by the same recipe, in Keras on the test split: {each}.")
    single = card["training"][-1]["result"].get("backbone_top1")
    if single is not None:
        lines.append(
            f"The single network that it was built from has {single:.2f} % in Keras, on the test "
            "images of the training."
        )
    agreement = card["agreement"]
    lines.append(
        f"Keras and the file predict the same class for "
        f"{100 * agreement['ensemble_argmax_agreement']:.2f} % of {agreement['samples']:,} images; "
        f"predictions of single members differ for {100 * agreement['flip_rate']:.3f} %."
    )
    return "\n\n".join(lines)


def _cutting(card: Card) -> list[str]:
    """Where the bytes of the first m members come from, and how one gets such a file."""
    return [
        "Bytes: the size of the file cut to its first m members, whose answers stay the same "
        f"(measured on {card['files']['tflite']['cut']['date']}). For two members:",
        f"    larq-ensemble convert {card['name']} --members 2 --out two.tflite",
    ]


def _cost(card: Card) -> str:
    files = card["files"]
    tflite = files["tflite"]
    lines = [
        f"- `.tflite`: {tflite['bytes']:,} bytes (layout {tflite['layout']}, heads "
        f"{tflite['heads']}, precision {tflite['precision']}).",
        f"- Weights for training: {files['weights']['bytes']:,} bytes.",
    ]
    for core, count in card["instructions"].items():
        lines.append(
            f"- arm64 instructions on {core} ({count['kernel']}): {count['image']:,} once an "
            f"image, {count['member']:,} for each member."
        )
    return "\n".join(lines)


def _training(card: Card) -> str:
    lines = []
    numbers = {stage["digest"]: number for number, stage in enumerate(card["training"], start=1)}
    for number, stage in enumerate(card["training"], start=1):
        recipe = stage["recipe"]
        rest = ", ".join(
            f"{key} {_short(value)}"
            for key, value in recipe.items()
            if value not in (None, {}, []) and key not in ("epochs", "source")
        )
        what = stage["model"]["name"]
        if stage["kind"] == "ensemble":
            what = f"{stage['ensemble']['members']} members, {stage['ensemble']['scheme']}"
        precision = "bfloat16" if stage["ensemble"].get("bfloat16") else stage["precision"]
        results = ", ".join(
            f"{key} {value:.2f}"
            for key, value in stage["result"].items()
            if isinstance(value, float) and key.endswith("top1")
        )
        lines.append(
            f"{number}. **{stage['kind']}** ({what}): {counted(recipe['epochs'], 'epoch')}, "
            f"{rest}; seed {stage['seed']}, {precision}. {_built_on(stage, numbers)}"
            f"Result: {results or 'none'} (%)."
        )
    versions = card["training"][-1]["versions"]
    lines.append("\nWith " + ", ".join(f"{name} {value}" for name, value in versions.items()) + ".")
    return "\n".join(lines)


#: What is told of the members that are the pretrained network, by their number.
_KEPT = {
    0: "",
    1: ", which is member 0, untouched",
    2: ", which is members 0 and 1, untouched",
}


def _built_on(stage: Card, numbers: Mapping[str, int]) -> str:
    """A sentence on the stages that this one starts from or learns from, by their numbers."""
    transfer, ensemble = stage["transfer"], stage["ensemble"]
    parts = [
        f"starts from {numbers[transfer[origin]]}"
        for origin in ("from_real", "from_backbone")
        if transfer.get(origin) in numbers
    ]
    if ensemble:
        kept = _KEPT[ensemble.get("keep_pretrained", 0)]
        parts.append(f"shares the filters of {numbers[ensemble['backbone']]}{kept}")
        if ensemble.get("mirror"):
            parts.append("every second member sees the image mirrored")
        if (weights := ensemble.get("prefix_weights")) is not None:
            parts.append(f"prefix weights {', '.join(map(_short, weights))}")
    if transfer.get("teacher") in numbers:
        parts.append(
            f"learns from {numbers[transfer['teacher']]} (weight {transfer['weight']:g}, "
            f"temperature {transfer['temperature']:g})"
        )
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}. " if sentence else ""


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _data(card: Card) -> str:
    data = card["data"]
    return (
        f"{data['origin']} {100 * data['validation']:g} % of the training split were held out for "
        "validation and calibration. Images are "
        f"{'x'.join(map(str, data['input_shape']))}; larger ones are cropped in the middle and "
        "scaled down, which loses detail. The network knows its classes only: anything else gets "
        f"the class that looks most like it. The weights are under {card['licence']}."
    )


def _provenance(card: Card) -> str:
    commands = "\n".join(f"    {command}" for command in card["commands"])
    return (
        f"Written by `tools/pretrained/ship.py` on {card['date']} at commit {card['commit'][:12]}, "
        f"from the results of\n\n{commands}"
    )


def overview(cards: Iterable[Card]) -> tuple[list[str], list[list[Any]]]:
    """A table of networks: its columns and rows."""
    columns = ["network", "data", "members", "top-1 % at m = 1", "top-1 % at m = M"]
    columns += ["bytes at m = 1", "bytes at m = M", "A72 instructions a member"]
    rows = []
    for card in cards:
        by_members, sizes = card["accuracy"]["by_members"], bytes_by_members(card)
        rows.append(
            [
                card["name"],
                card["data"]["name"],
                card["members"],
                by_members[0]["top1"],
                by_members[-1]["top1"],
                sizes[0],
                sizes[-1],
                instructions_of_a_member(card),
            ]
        )
    return columns, rows
