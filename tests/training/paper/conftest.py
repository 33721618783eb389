import dataclasses

import pytest

from larq_ensemble.data.datasets import DATASETS, DataOptions
from larq_ensemble.network.architectures import MODELS, Architecture
from larq_ensemble.network.architectures.resnet import residual_block
from larq_ensemble.training.paper.library import Settings


@pytest.fixture(scope="session")
def one_block():
    """The smallest binarized network: trainings here cost what their tracing does."""
    return Architecture(residual_block, (4,), (1,))


@pytest.fixture(scope="session")
def by_origin():
    """A function from points to {label and M: value} of ours and of the paper's."""

    def by_origin(points):
        return [
            {(p.label, p.members): p.value for p in points if p.origin == origin}
            for origin in ("ours", "paper")
        ]

    return by_origin


@pytest.fixture
def small(stem, monkeypatch):
    """ResNet-20 becomes `stem` and CIFAR-100 the digits; settings of one epoch each."""
    monkeypatch.setitem(MODELS._entries, "resnet20", MODELS[stem])
    stand_in = dataclasses.replace(DATASETS["digits"], name="cifar100")
    monkeypatch.setitem(DATASETS._entries, "cifar100", stand_in)
    data = DataOptions(validation=0.0, limit_train=64, limit_test=40)
    return Settings(data, recipe="short", epochs=1, pretrain_epochs=1)
