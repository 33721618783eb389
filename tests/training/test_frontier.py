import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from larq_ensemble.errors import EnsembleError
from larq_ensemble.files import write_csv
from larq_ensemble.runs import Run, RunConfig
from larq_ensemble.training.ensemble import train_ensemble
from larq_ensemble.training.frontier import frontier, pareto_front
from larq_ensemble.training.plots import draw_frontier, save

# The network `tiny` on digits, by hand. Shared: stem, binary filters with their scales, shortcut.
SHARED_BYTES = 4 * 9 * 4 + (9 * 4 * 8 + 9 * 8 * 8) // 8 + 4 * 16 + 4 * 4 * 8
# Own: five batch norms of two values per channel, slopes, linear layer.
MEMBER_BYTES = 2 * 4 * (4 + 4 + 3 * 8) + 4 * 3 + 4 * (8 * 10 + 10)
BINARY_MACS = 16 * 9 * (4 * 8 + 8 * 8)
REAL_MACS = 64 * 9 * 4 + 16 * 4 * 8 + 8 * 10


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_pareto_front_against_brute_force(points):
    costs, values = zip(*points)
    expected = [
        not any(
            other_cost <= cost and other >= value and (other_cost, other) != (cost, value)
            for other_cost, other in points
        )
        for cost, value in points
    ]
    assert pareto_front(costs, values) == expected


@pytest.fixture(scope="module")
def ensemble(backbone, few, recipe, tmp_path_factory):
    """Two untrained members that strong noise has made different."""
    untrained = recipe.override(epochs=0, jitter=0.4)
    out = tmp_path_factory.mktemp("runs") / "voting"
    return train_ensemble(
        backbone, out, members=2, scheme="voting", recipe=untrained, data=few, verbose=0
    )[0]


def test_frontier(backbone, ensemble, tmp_path, request):
    told = []
    points = frontier([backbone, ensemble], tmp_path, limit=50, progress=told.append)
    assert told == [f"1 of 2: {backbone.path}", f"2 of 2: {ensemble.path}"]
    assert [(p.scheme, p.members, p.trained_members) for p in points] == [
        ("", 1, 1),
        ("voting", 1, 2),
        ("voting", 2, 2),
    ]
    for point in points:
        assert point.bytes == SHARED_BYTES + point.members * MEMBER_BYTES
        assert point.binary_macs == point.members * BINARY_MACS
        assert point.real_macs == point.members * REAL_MACS
        assert point.macs == point.binary_macs + point.real_macs
        assert point.paper_energy_mj == pytest.approx(point.members * 1.92)
        assert (point.samples, point.split, point.dataset) == (50, "test", "digits")
    top1 = [p.top1 for p in points]
    for point, expected in zip(
        points, [top1[0] >= top1[1], top1[1] >= top1[0], top1[2] > max(top1[:2])], strict=True
    ):
        assert point.best_by == ("bytes macs paper_energy_mj" if expected else "")

    write_csv(tmp_path / "frontier.csv", points)
    lines = (tmp_path / "frontier.csv").read_text().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("run,model,dataset,scheme,sharing,trained_members,members,top1")
    png, svg = save(draw_frontier(points), tmp_path / "frontier")
    assert png.is_file()
    assert "voting, M = 2" in svg.read_text()

    # What was evaluated is not evaluated again.
    request.getfixturevalue("no_data")
    assert frontier([backbone, ensemble], tmp_path, limit=50, progress=told.append) == points
    with pytest.raises(AssertionError, match="The data were read"):
        frontier([backbone], tmp_path, limit=51, progress=told.append)


def test_accuracies_on_different_data_sets_are_not_compared(backbone, tmp_path):
    other = Run(tmp_path / "other", RunConfig("backbone", {}, {"name": "cifar10"}, {}, 0))
    with pytest.raises(EnsembleError, match=r"backbone' of 'digits' and .*other' of 'cifar10'"):
        frontier([backbone, other], tmp_path)


def test_members_with_a_bias_of_their_own_in_a_shared_head(backbone, ensemble, tmp_path):
    """Their ensembles of before share it."""
    (tmp_path / "frozen").mkdir()
    (tmp_path / "frozen" / "model.keras").write_bytes(ensemble.model_path.read_bytes())
    for own, values in ((True, 10), (False, 0)):
        settings = {**ensemble.config.ensemble, "sharing": "all_frozen", "own_head_bias": own}
        config = dataclasses.replace(ensemble.config, ensemble=settings)
        two = frontier([Run(tmp_path / "frozen", config)], tmp_path, limit=20)[-1]
        assert two.bytes == (
            SHARED_BYTES + 4 * (8 * 10 + 10 - values) + 2 * (MEMBER_BYTES - 4 * (90 - values))
        )


def test_a_width_is_part_of_the_name(backbone, tmp_path):
    (tmp_path / "narrow").mkdir()
    (tmp_path / "narrow" / "model.keras").write_bytes(backbone.model_path.read_bytes())
    model = {**backbone.config.model, "width": 0.75}
    narrow = Run(tmp_path / "narrow", dataclasses.replace(backbone.config, model=model))
    points = frontier([backbone, narrow], tmp_path, limit=20)
    assert [point.model for point in points] == ["tiny", "tiny x 0.75"]


def test_members_that_see_mirrored_images_store_an_order_of_columns(backbone, ensemble, tmp_path):
    (tmp_path / "mirrored").mkdir()
    (tmp_path / "mirrored" / "model.keras").write_bytes(ensemble.model_path.read_bytes())
    settings = {**ensemble.config.ensemble, "mirror": True}
    config = dataclasses.replace(ensemble.config, ensemble=settings)
    two = frontier([Run(tmp_path / "mirrored", config)], tmp_path, limit=20)[-1]
    columns = ensemble.config.model["input_shape"][1]
    assert two.bytes == SHARED_BYTES + 2 * (MEMBER_BYTES + 4 * columns)


@pytest.mark.parametrize(("kept", "own"), [(1, [1, 2]), (2, [1, 1])])
def test_two_members_that_are_the_pretrained_network_store_its_values_once(
    backbone, ensemble, tmp_path, kept, own
):
    """They differ in the order of the columns that they see."""
    (tmp_path / "mirrored").mkdir()
    (tmp_path / "mirrored" / "model.keras").write_bytes(ensemble.model_path.read_bytes())
    settings = {**ensemble.config.ensemble, "mirror": True, "keep_pretrained": kept}
    config = dataclasses.replace(ensemble.config, ensemble=settings)
    points = frontier([Run(tmp_path / "mirrored", config)], tmp_path, limit=20)
    columns = ensemble.config.model["input_shape"][1]
    assert [point.bytes for point in points] == [
        SHARED_BYTES + networks * MEMBER_BYTES + m * 4 * columns
        for m, networks in enumerate(own, start=1)
    ]


def test_rounded_members_store_binary_filters_of_their_own(backbone, ensemble, tmp_path):
    (tmp_path / "rounded").mkdir()
    (tmp_path / "rounded" / "model.keras").write_bytes(ensemble.model_path.read_bytes())
    settings = {**ensemble.config.ensemble, "scheme": "stochastic_rounding"}
    config = dataclasses.replace(ensemble.config, ensemble=settings)
    two = frontier([Run(tmp_path / "rounded", config)], tmp_path, limit=20)[-1]
    filters = (9 * 4 * 8 + 9 * 8 * 8) // 8  # their scales stay shared
    assert two.bytes == SHARED_BYTES + filters + 2 * MEMBER_BYTES
