"""How images of one's own become arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from larq_ensemble.errors import EnsembleError, check_seed, check_whole, is_number

DAMAGED = ("refuse", "skip")
_MOST_PIXELS = 2**24


@dataclass(frozen=True)
class ImageOptions:
    """How images of one's own become arrays, and are split.

    # Arguments
        image_size: (height, width) that all images are cropped and resized to, see
            `larq_ensemble.runtime.images.fit_image`. `None`: that of the images, which must be the
            same for all.
        channels: 1 for grey or 3 for RGB. `None`: 1 if all images are grey, else 3.
        damaged: what to do with image files that can't be read: `"refuse"` or `"skip"`.
        test_share: share of the images that is the test split, if the data have none of their own:
            from 0 to 1.
        split_seed: draws them. It is not the seed of the training, so that trainings with several
            seeds have the same test images.

    # Raises
        EnsembleError: for values out of range.
    """

    image_size: tuple[int, int] | None = None
    channels: Literal[1, 3] | None = None
    damaged: Literal["refuse", "skip"] = "refuse"
    test_share: float = 0.2
    split_seed: int = 0

    def __post_init__(self) -> None:
        if self.image_size is not None:
            try:
                height, width = self.image_size
            except (TypeError, ValueError):
                raise EnsembleError(
                    f"`image_size` must be (height, width), got {self.image_size!r}."
                ) from None
            size = tuple(check_whole("image_size", side, 1) for side in (height, width))
            if math.prod(size) > _MOST_PIXELS:
                raise EnsembleError(
                    f"`image_size` may have {_MOST_PIXELS:,} pixels at most, got {size[0]} x "
                    f"{size[1]}: it is the size that the network takes, not that of the photos."
                )
            object.__setattr__(self, "image_size", size)
        if self.channels not in (None, 1, 3):
            raise EnsembleError(
                f"`channels` must be 1 for grey or 3 for RGB images, got {self.channels!r}."
            )
        if self.damaged not in DAMAGED:
            raise EnsembleError(
                f"`damaged` must be {' or '.join(map(repr, DAMAGED))}, got {self.damaged!r}."
            )
        if not is_number(self.test_share) or not 0 <= self.test_share <= 1:
            raise EnsembleError(f"`test_share` must be from 0 to 1, got {self.test_share!r}.")
        check_seed(self.split_seed)

    def to_json(self) -> dict[str, Any]:
        """The arguments as values of JSON."""
        values = asdict(self)
        return values | {"image_size": self.image_size and list(self.image_size)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ImageOptions:
        """What `to_json` wrote."""
        return cls(**values)
