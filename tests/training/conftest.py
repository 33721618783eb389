"""A network and runs small enough that tracing them, not training them, is what a test costs."""

import pytest

from larq_ensemble.models import MODELS, Architecture
from larq_ensemble.models.resnet import resnet
from training.datasets import DATASETS, DataOptions
from training.pretrain import pretrain
from training.recipes import Recipe

FEW = DataOptions(limit_train=80, limit_test=64)


@pytest.fixture(scope="session", autouse=True)
def tiny():
    """The architecture `tiny`: a ResNet of two blocks, with one shortcut convolution."""
    entries = MODELS._entries
    entries["tiny"] = Architecture(resnet, (4, 8), options={"blocks": (1, 1)})
    yield "tiny"
    del entries["tiny"]


@pytest.fixture(scope="session")
def few():
    """80 training images, of which 8 are held out, and 64 test images."""
    return FEW


@pytest.fixture(scope="session")
def backbone(tiny, tmp_path_factory):
    """A backbone pretrained on few digits for three epochs."""
    recipe = Recipe(epochs=3, batch_size=24, lr=1e-2, dropout=0.0, source="test")
    out = tmp_path_factory.mktemp("runs") / "backbone"
    run, _ = pretrain(tiny, "digits", out, recipe=recipe, data=FEW, verbose=0)
    return run


@pytest.fixture(scope="session")
def digits():
    """(training, test) data of `digits`."""
    return DATASETS["digits"].read(None)
