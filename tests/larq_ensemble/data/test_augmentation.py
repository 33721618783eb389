import json

import pytest

from larq_ensemble.data.augmentation import AUGMENTATIONS, Augmentation
from larq_ensemble.data.datasets import DATASETS
from larq_ensemble.errors import EnsembleError


def test_a_run_of_before_has_the_same_json():
    for name, before in (
        ("digits", {"pad": 1, "flip": False}),
        ("cifar10", {"pad": 4, "flip": True}),
        ("cifar100", {"pad": 4, "flip": True}),
    ):
        assert DATASETS[name].constants()["augmentation"] == before
        assert Augmentation.from_json(before) == DATASETS[name].augmentation


@pytest.mark.parametrize("kind", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(8, 8, 1), (64, 48, 3), (2, 224, 3)])
def test_json_gives_it_back(kind, shape):
    augmentation = Augmentation.of_kind(kind, shape)
    assert Augmentation.from_json(json.loads(json.dumps(augmentation.to_json()))) == augmentation


def test_a_crop_is_a_share_of_the_image():
    assert Augmentation.of_kind("crop", (32, 32, 3)) == Augmentation(pad=4)
    assert Augmentation.of_kind("crop", (224, 160, 3)).padding == (28, 20)
    assert Augmentation.of_kind("crop", (8, 2, 1)).padding == (1, 1)


def test_each_kind_goes_further():
    """What one changes, the next changes alike."""
    crop, rand, mix = (
        Augmentation.of_kind(kind, (64, 64, 3)).to_json() for kind in ("crop", "rand", "mix")
    )
    flip = Augmentation.of_kind("flip", (64, 64, 3)).to_json()
    assert rand.items() >= {"pad": crop["pad"], "flip": flip["flip"]}.items()
    assert mix.items() > rand.items()
    assert not Augmentation.of_kind("none", (64, 64, 3)).to_json()["pad"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Augmentation.of_kind("flips", (8, 8, 1)), "Unknown augment 'flips'. Known: crop"),
        (lambda: Augmentation(pad=-1), "`pad` must not be below 0, got -1"),
        (lambda: Augmentation(pad=(2, -1)), "`pad` must not be below 0"),
        (lambda: Augmentation(zoom=1.0), "`zoom` must be at least 0 and below 1, got 1.0"),
        (lambda: Augmentation(rotation=float("nan")), "`rotation` must be at least 0"),
        (lambda: Augmentation.from_json({"pad": 0, "cutout": 4}), "Unknown augmentation 'cutout'"),
    ],
)
def test_wrong_values(make, message):
    with pytest.raises(EnsembleError, match=message):
        make()
