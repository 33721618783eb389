"""The metadata of an ensemble file: versioned JSON, read without TensorFlow.

The JSON is the buffer of the flatbuffer's `Model.metadata` entry named `larq_ensemble`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from larq_ensemble.errors import EnsembleError, check_whole, is_real
from larq_ensemble.legalization import FILTERS
from larq_ensemble.runtime.cascade import Cascade
from larq_ensemble.runtime.combination import COMBINATIONS, are_weights

#: Name of the metadata entry in the flatbuffer.
ENTRY = "larq_ensemble"
#: Number formats of the last linear layer's weights.
HEADS = ("float32", "int8")
#: Number formats of the members' other values.
PRECISIONS = ("float32", "compact")
#: Number formats of the weights of a real-valued network whose file computes in integers.
QUANTIZATIONS = ("int8", "int4")
#: Version of the files that this package writes, and the newest that it reads. Files of version 2
#: may have a shared trunk.
VERSION = 2
#: How a file holds its members.
LAYOUTS = ("indexed", "subgraphs", "branches")
#: What a file is written for: Larq Compute Engine, whose binary operators are its own, or any
#: TFLite runtime, LiteRT among them. Files of before are for LCE.
TARGETS = ("lce", "litert")


@dataclass(frozen=True, kw_only=True)
class EnsembleMetadata:
    """What the runtime needs to know about a file besides its graphs.

    # Arguments
        scheme: how members are combined, a name of
            `larq_ensemble.runtime.combination.COMBINATIONS`.
        members: number of members in the file.
        classes: number of logits.
        input_shape: `(height, width, channels)` of an image with values 0..255.
        theory_parts: the lower bound of the file's size in bytes, by owner (`shared_`: once;
            `member_`: for all members together) and purpose. The sum is `theory_bytes`.
        theory_parts_of_first: the same for the first 1, 2, ... M members, of those `member_` parts
            that don't grow by the same bytes with each of them: equal values count once.
        class_names: one name per class, or `None`.
        dataset: name of the data set that the ensemble was trained on, or `None`.
        layout: how the file holds its members: `"indexed"`: one graph that looks up the values of
            a member by its number; `"subgraphs"`: a graph for each; `"branches"`: one graph that
            computes all members.
        heads: number format of the last linear layer's weights: `"float32"`, or `"int8"` with a
            float scale for each class.
        precision: number format of the members' other values: `"float32"`, or `"compact"` with a
            few bits per value.
        columns: number of columns in the table of the members' values, by purpose: batch norm,
            activations, heads and so on; empty if the file has no such table.
        target: `"lce"`: the file has operators of Larq Compute Engine; `"litert"`: it has builtin
            operators of TFLite only, so any TFLite runtime, LCE among them, can run it.
        filters: how a file for `"litert"` stores binary filters: `"int8"`: a byte a weight;
            `"1bit"`: a bit a weight, unpacked at run time. `None`: the file is for `"lce"`, or has
            none.
        quantization: of a real-valued network whose file computes in integers, the number format of
            its weights: `"int8"`, or `"int4"` with `"int8"` in the first and the last layer.
            `None`: it computes in floats or is binarized.
        weights: a weight for each member in the combination; `None`: all equal.
        temperatures: for each number of members from 1 to M, the temperature that calibrates their
            prediction; `None`: not fitted.
        cascade: the thresholds of the adaptive prediction; `None`: not fitted.
        top1: for each number of members from 1 to M, the accuracy in percent on the held-out images
            that calibrated the file; `None`: not measured.
        instructions: instructions that were counted on a processor, by its name and the runtime's:
            `image`, once per image, and `member`, for each; empty: not counted.
        data_origin: of data of one's own: `images`, how they became arrays, and `fingerprint`,
            see `larq_ensemble.data.datasets.Origin`; empty: built in, or unknown.
        validation_split: `seed`, `share` and `limit_train` of the split that held images out from
            training, for `larq-ensemble calibrate`; empty: unknown.
        run_hash: SHA-256 of the file of the trained weights, or `None`.
        rewrites: how often each pass that saves instructions applied to the graph of a member, by
            name; empty: never, or unknown.
        tools: versions of the programs that wrote the file.
        version: version of the file format and of this metadata.
        sha256: checksum of the file, computed with these 64 characters replaced by zeros. It
            detects damaged files before the interpreter opens them.

    # Raises
        EnsembleError: for an invalid value; the message names the field.
    """

    scheme: str
    members: int
    classes: int
    input_shape: tuple[int, int, int]
    theory_parts: Mapping[str, int] = field(default_factory=dict)
    theory_parts_of_first: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    dataset: str | None = None
    layout: str = "indexed"
    heads: str = "float32"
    precision: str = "float32"
    columns: Mapping[str, int] = field(default_factory=dict)
    target: str = "lce"
    filters: str | None = None
    quantization: str | None = None
    weights: tuple[float, ...] | None = None
    temperatures: tuple[float, ...] | None = None
    cascade: Cascade | None = None
    top1: tuple[float, ...] | None = None
    instructions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    data_origin: Mapping[str, Any] = field(default_factory=dict)
    validation_split: Mapping[str, float] = field(default_factory=dict)
    run_hash: str | None = None
    rewrites: Mapping[str, int] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    version: int = VERSION
    sha256: str = "0" * 64

    def __post_init__(self) -> None:
        COMBINATIONS[self.scheme]  # raises the error that lists the names
        self._check_network()
        self._check_measured()
        self._check_form()
        self._check_origin()

    def _check_network(self) -> None:
        """What the graphs compute."""
        for name in ("members", "classes", "version"):
            self._require(name, _is_positive_int(getattr(self, name)), "a positive integer")
        self._require(
            "input_shape",
            _is_tuple(self.input_shape, 3) and all(map(_is_positive_int, self.input_shape)),
            "three positive integers (height, width, channels)",
        )
        self._require(
            "class_names",
            self.class_names is None
            or (_is_tuple(self.class_names, self.classes) and _are(self.class_names, str)),
            f"{self.classes} strings, one per class",
        )

    def _check_measured(self) -> None:
        """What calibration and counting wrote."""
        for name, per in (("weights", "one per member"), ("temperatures", "one for each m")):
            values = getattr(self, name)
            self._require(
                name,
                values is None or are_weights(values, self.members),
                f"{self.members} positive, finite numbers, {per}",
            )
        self._require(
            "top1",
            self.top1 is None
            or (
                _is_tuple(self.top1, self.members)
                and all(is_real(value) and 0 <= value <= 100 for value in self.top1)
            ),
            f"{self.members} percentages, one for each m",
        )
        self._require(
            "instructions",
            _is_mapping(self.instructions, Mapping)
            and all(
                _are_counts(counts, 0) and counts.keys() == {"image", "member"}
                for counts in self.instructions.values()
            ),
            "numbers of instructions for the image and a member, by processor",
        )
        self._require(
            "cascade",
            self.cascade is None
            or (
                isinstance(self.cascade, Cascade)
                and len(self.cascade.thresholds) == self.members - 1
            ),
            f"a rule with {self.members - 1} thresholds",
        )

    def _check_form(self) -> None:
        """How the file stores it."""
        for name, known in (
            ("layout", LAYOUTS),
            ("heads", HEADS),
            ("precision", PRECISIONS),
            ("target", TARGETS),
        ):
            self._require(name, getattr(self, name) in known, f"one of {', '.join(known)}")
        quantized = self.quantization is not None
        self._require(
            "quantization",
            not quantized or (self.quantization in QUANTIZATIONS and self.target == "litert"),
            f"null, or in a file for 'litert' one of {', '.join(QUANTIZATIONS)}",
        )
        if self.target == "lce" or quantized:
            where = "of a quantized network" if quantized else "for 'lce'"
            self._require("filters", self.filters is None, f"null in a file {where}")
        else:
            self._require("filters", self.filters in FILTERS, f"one of {', '.join(FILTERS)}")

    def _check_origin(self) -> None:
        """Where it comes from."""
        for name, optional in (("sha256", False), ("dataset", True), ("run_hash", True)):
            text = getattr(self, name)
            valid = isinstance(text, str) or (optional and text is None)
            self._require(name, valid, "a string or null" if optional else "a string")
        self._require(
            "data_origin",
            self.data_origin == {}
            or (
                _is_mapping(self.data_origin, (str, Mapping))
                and isinstance(self.data_origin.get("images"), Mapping)
                and isinstance(self.data_origin.get("fingerprint"), str)
            ),
            "the options of images and a fingerprint",
        )
        for name, kinds, expected in (
            ("validation_split", (int, float), "numbers by name"),
            ("tools", str, "versions by name"),
        ):
            self._require(name, _is_mapping(getattr(self, name), kinds), expected)
        for name, lowest, expected in (
            ("theory_parts", 0, "numbers of bytes by name"),
            ("rewrites", 0, "numbers by name"),
            ("columns", 1, "positive numbers of columns by name"),
        ):
            self._require(name, _are_counts(getattr(self, name), lowest), expected)
        of_first = self.theory_parts_of_first
        self._require(
            "theory_parts_of_first",
            _is_mapping(of_first, tuple)
            and all(
                _is_tuple(sizes, self.members)
                and all(type(size) is int and 0 <= size < 1 << 63 for size in sizes)
                and sizes[-1] == self.theory_parts.get(name)
                and name.startswith("member_")
                and [*sizes] == sorted(sizes)
                for name, sizes in of_first.items()
            ),
            f"{self.members} rising numbers of bytes by the names of members' parts, the last as "
            "in `theory_parts`",
        )

    def _require(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            raise EnsembleError(
                f"Ensemble metadata: `{name}` must be {expected}. "
                f"Received: {getattr(self, name)!r}."
            )

    @property
    def theory_bytes(self) -> int:
        """The lower bound of the file's size: the ensemble's values without graph and padding."""
        return sum(self.theory_parts.values())

    def first(self, members: int) -> EnsembleMetadata:
        """The metadata of a file with only the first `members` members.

        # Raises
            EnsembleError: if `members` is not from 1 to M.
        """
        members = check_whole("members", members, 1, self.members)
        of_first = {n: sizes[:members] for n, sizes in self.theory_parts_of_first.items()}
        theory_parts = {
            name: size // self.members * members if name.startswith("member_") else size
            for name, size in self.theory_parts.items()
        } | {name: sizes[-1] for name, sizes in of_first.items()}
        weights, temperatures, cascade = self.weights, self.temperatures, self.cascade
        return dataclasses.replace(
            self,
            members=members,
            theory_parts=theory_parts,
            theory_parts_of_first=not_in_proportion(of_first),
            weights=weights and weights[:members],
            temperatures=temperatures and temperatures[:members],
            cascade=cascade and cascade.first(members),
            top1=self.top1 and self.top1[:members],
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON object, without fields that are `None` or empty."""
        values = {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if getattr(self, item.name) not in (None, {}, ())
        }
        if self.target == "lce":  # as in files of before
            del values["target"]
        if self.cascade is not None:
            values["cascade"] = dataclasses.asdict(self.cascade)
        values["theory_bytes"] = self.theory_bytes
        return values

    def to_json(self) -> bytes:
        """The JSON as the file holds it: UTF-8, without whitespace."""
        return json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> EnsembleMetadata:
        """Reads what `to_json` wrote.

        Unknown fields are ignored, so that later versions can add some without a new `version`.

        # Raises
            EnsembleError: if the JSON is invalid or of a newer version.
        """
        try:
            values = json.loads(data.decode())
            # Text that can't be written again, such as half of a surrogate pair, is none.
            json.dumps(values, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise EnsembleError(
                f"Ensemble metadata is not JSON ({error}): convert the run again."
            ) from error
        if not isinstance(values, dict):
            raise EnsembleError(
                f"Ensemble metadata must be a JSON object. Received: {type(values).__name__}."
            )
        version = values.get("version")
        if isinstance(version, int) and version > VERSION:
            raise EnsembleError(
                f"The file has version {version}, but this package reads files up to version "
                f"{VERSION}: install a newer larq-ensemble."
            )
        known = {item.name for item in dataclasses.fields(cls)}
        values = {name: value for name, value in values.items() if name in known}
        for name in ("input_shape", "class_names", "weights", "temperatures", "top1"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        if isinstance(of_first := values.get("theory_parts_of_first"), dict):
            values["theory_parts_of_first"] = {
                name: tuple(sizes) if isinstance(sizes, list) else sizes
                for name, sizes in of_first.items()
            }
        if values.get("cascade") is not None:
            values["cascade"] = Cascade.from_json(values["cascade"])
        missing = {"scheme", "members", "classes", "input_shape", "version"} - values.keys()
        if missing:
            raise EnsembleError(
                f"Ensemble metadata lacks {', '.join(sorted(missing))}: convert the run again."
            )
        return cls(**values)


def not_in_proportion(parts: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Of members' bytes for the first 1, 2, ... M, those that aren't the first's times m."""
    return {
        name: sizes
        for name, sizes in parts.items()
        if name.startswith("member_")
        and any(size != sizes[0] * count for count, size in enumerate(sizes, 1))
    }


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 63


def _are_counts(values: object, lowest: int) -> bool:
    """Whether it maps strings to integers of 63 bits from `lowest` on."""
    return (
        isinstance(values, Mapping)
        and _are(values, str)
        and all(type(value) is int and lowest <= value < 1 << 63 for value in values.values())
    )


def _is_tuple(value: object, length: int) -> bool:
    return isinstance(value, tuple) and len(value) == length


def _are(values: Iterable[object], kinds: type | tuple[type, ...]) -> bool:
    return all(isinstance(value, kinds) for value in values)


def _is_mapping(value: object, kinds: type | tuple[type, ...]) -> bool:
    """Whether it maps strings to values of some types."""
    return isinstance(value, Mapping) and _are(value, str) and _are(value.values(), kinds)
