from larq_ensemble.training.paper.figures import FIGURES
from larq_ensemble.training.paper.plots import draw
from larq_ensemble.training.paper.points import counted_points
from larq_ensemble.training.plots import save


def test_the_same_figure_is_the_same_file(tmp_path):
    points = counted_points("fig7b")
    for name in ("a", "b"):
        save(draw(FIGURES["fig7b"], points), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert not list(tmp_path.glob(".*"))
