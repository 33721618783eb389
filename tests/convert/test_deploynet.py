"""Networks for deployment in an ensemble's file: what their constraint is for."""

from __future__ import annotations

import pytest

from larq_ensemble.convert.inspection import inspect_file
from larq_ensemble.ensembles.building import build_ensemble
from larq_ensemble.models import build_model

from .conftest import assert_members_agree, converted, pixels, randomized


@pytest.mark.parametrize(
    ("name", "norms"),
    [
        # One value a channel of the norm before a sign, two of the others.
        ("deploynet8", 32 + 32 + 32 + 64 * 3 + 2 * (32 + 2 * 32 + 4 * 64)),
        ("deploynet9", 7 * 32 + 2 * (32 + 7 * 32)),
    ],
)
def test_norms_before_signs_are_thresholds(name: str, norms: int, tmp_path) -> None:
    backbone = build_model(name, input_shape=(16, 16, 3), classes=5, width=0.5)
    model = randomized(build_ensemble(backbone, 2))
    for layer in model.layers:
        for weight in layer.trainable_weights:
            if weight.constraint is not None:
                weight.assign(weight.constraint(weight))
    case = converted(model, tmp_path)
    assert_members_agree(case, pixels(40, (16, 16, 3)))
    report = inspect_file(case.path)
    assert case.report.layout == "indexed"
    assert report.binary_filter_copies == 1
    assert report.ops["LceBconv2d"] == int(name[-1]) - 2
    assert report.categories["batch_norm"] <= 2 * 4 * norms < report.lower_bound["batch_norm"]
