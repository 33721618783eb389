"""Random changes of training images, as data: what a run records, and what a training applies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from larq_ensemble.errors import EnsembleError, UnknownNameError

AUGMENTATIONS = ("none", "flip", "crop", "rand", "mix")

#: Padding of a random crop, as a share of the image: 4 of the 32 pixels of CIFAR's recipes.
_CROP = 1 / 8


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image, each with a draw of its own.

    `larq_ensemble.training.augmentation` applies them.

    # Arguments
        pad: pixels of zero padding on each side before a random crop to the original size: one
            number, or one for the rows and one for the columns.
        flip: mirror horizontally with probability 1/2.
        rotation: the largest angle, in degrees, either way.
        zoom: the largest change of the size, either way, as a share of it.
        brightness: the largest change, either way, as a share of the range of a pixel.
        contrast: the largest change, either way, as a share of the contrast.
        mixup: alpha of mixup; 0: none.

    # Raises
        EnsembleError: for a value out of range.
    """

    pad: int | tuple[int, int] = 0
    flip: bool = False
    rotation: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        if min(self.padding) < 0:
            raise EnsembleError(f"`pad` must not be below 0, got {self.pad}.")
        ends = {"rotation": 180, "zoom": 1, "brightness": 1, "contrast": 1, "mixup": float("inf")}
        for name, end in ends.items():
            value = getattr(self, name)
            if not 0 <= value < end:
                raise EnsembleError(f"`{name}` must be at least 0 and below {end}, got {value}.")

    @classmethod
    def of_kind(cls, kind: str, input_shape: tuple[int, int, int]) -> Augmentation:
        """The augmentation of a name.

        | kind | changes |
        |---|---|
        | `none` | none |
        | `flip` | one image in two is mirrored |
        | `crop` | moved by up to 1/8 of its height and width, zeros come in |
        | `rand` | both, turned by up to 15 degrees, 10 % larger or smaller, 20 % in brightness, contrast |
        | `mix` | as `rand`, and mixup with an alpha of 0.2 |

        `crop` is for images that must not be mirrored, such as of digits and letters.

        # Raises
            EnsembleError: for an unknown name.
        """  # noqa: E501  (a table)
        height, width, _ = input_shape
        pad = (max(1, round(height * _CROP)), max(1, round(width * _CROP)))
        crop: dict[str, Any] = {"pad": pad if height != width else pad[0]}
        rand = {
            **crop, "flip": True, "rotation": 15.0, "zoom": 0.1, "brightness": 0.2, "contrast": 0.2
        }  # fmt: skip
        kinds = {
            "none": {},
            "flip": {"flip": True},
            "crop": crop,
            "rand": rand,
            "mix": {**rand, "mixup": 0.2},
        }
        if kind not in kinds:
            raise UnknownNameError("augment", kind, AUGMENTATIONS)
        return cls(**kinds[kind])

    @property
    def padding(self) -> tuple[int, int]:
        """`pad` of the rows and of the columns."""
        return self.pad if isinstance(self.pad, tuple) else (self.pad, self.pad)

    def to_json(self) -> dict[str, Any]:
        """`pad` and `flip`, and of the others those that are not 0.

        So an augmentation of before has the same JSON as then, and its runs can be resumed.
        """
        return {
            name: [*value] if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name in ("pad", "flip") or value
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Augmentation:
        """That of which `to_json` gave `values`.

        # Raises
            EnsembleError: if it has changes that this version does not know.
        """
        if unknown := values.keys() - {field.name for field in fields(cls)}:
            raise EnsembleError(
                f"Unknown augmentation {sorted(unknown)[0]!r}: the run is of a newer version of "
                "larq-ensemble."
            )
        pad = values.get("pad", 0)
        return cls(**{**values, "pad": tuple(pad) if isinstance(pad, (list, tuple)) else pad})
