"""Traces, the simulated device by hand, and the comparison on a made-up ensemble."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.cascade import Cascade
from larq_ensemble.runtime.power import PowerPolicy

from .conftest import load

intermittent, traces, harvesting = map(load, ("intermittent", "traces", "harvesting"))

#: An image is 100 nJ and 1 s, a member 300 nJ and 2 s; one each 10 s.
DEVICE = intermittent.Device(
    capacity_nj=2000,
    turn_on_nj=400,
    leakage_nw=0,
    sleep_nw=0,
    period_ms=10_000,
    begin_nj=100,
    begin_ms=1000,
    member_nj=300,
    member_ms=2000,
)
ALWAYS_RIGHT = intermittent.Answers(np.ones((4, 1), bool), None, [0])


def constant(nanowatts: int, seconds: int) -> traces.Trace:
    return traces.Trace("constant", [1000 * seconds], [nanowatts])


def outcome(nanowatts: int, seconds: int, members: int, **device: int) -> intermittent.Outcome:
    costs = intermittent.Device(**{**vars(DEVICE), **device})
    return intermittent.simulate(
        costs, constant(nanowatts, seconds), partial(intermittent.Fixed, members), ALWAYS_RIGHT
    )


def counts(found: intermittent.Outcome) -> tuple[int, int, int, int]:
    return found.images, found.answers, found.members, found.brown_outs


def test_device_by_hand() -> None:
    # 40 nW for 10 s are what begin and one member take. The image at 0 finds the device off.
    found = outcome(40, 100, 1)
    assert counts(found) == (10, 9, 9, 0)
    assert found.store.stored == 1000 * (4000 - 9 * 400)
    # Two members take 700 nJ. At 10 s the first leaves 40 nJ, to which 80 come, which don't pay the
    # second. At 20 s the device is off, at 30 s there are 680 nJ, and what comes meanwhile pays. At
    # 40 s there are 380 nJ, as at 10 s too few: and so on.
    found = outcome(40, 100, 2)
    assert [members for _, _, members in found.history] == [0, 0, 0, 2, 0, 0, 2, 0, 0, 2]
    assert found.brown_outs == 3


def test_device_that_is_busy_misses_images() -> None:
    # 9 s of 10 for an image by 4 members; 13 s make it miss every other one.
    assert outcome(1000, 100, 4).answers == 9
    found = outcome(1000, 100, 4, member_ms=3000)
    assert found.answers == 5


def test_full_capacitor_turns_energy_away() -> None:
    found = outcome(1000, 20, 1, capacity_nj=500, period_ms=1_000_000)
    assert found.store.stored == 500_000
    assert found.store.spilled == 20_000_000 - 500_000


def test_sleep_and_leakage_switch_off() -> None:
    # 400 nJ at 10 s, 10 nW of leakage and 30 of sleep: off again at 20 s, and then 0.
    trace = traces.Trace("burst", [10_000, 100_000], [50, 0])
    device = intermittent.Device(**{**vars(DEVICE), "leakage_nw": 10, "sleep_nw": 30})
    never = partial(PowerPolicy, members=1, begin_nj=10**9, member_nj=1)
    found = intermittent.simulate(device, trace, never, ALWAYS_RIGHT)
    assert counts(found) == (10, 0, 0, 0)
    assert found.store.stored == 0
    assert found.store.drained == found.store.harvested == 500_000


def test_cascade_and_the_right_answers() -> None:
    right = np.array([[True, False], [False, True], [True, True]])
    enough = np.array([[False, False], [True, False], [False, False]])
    answers = intermittent.Answers(right, enough, [1, 0, 1])
    found = intermittent.simulate(
        DEVICE, constant(10_000, 31), partial(intermittent.Fixed, 3), answers
    )
    # The first finds the device off. Image 0 stops after 2, where it is wrong, image 1 after 3.
    assert counts(found) == (4, 3, 2 + 3 + 3, 0)
    assert found.correct == 2
    assert [members for _, _, members in found.history] == [0, 2, 3, 3]


@st.composite
def runs(draw: st.DrawFn) -> tuple[intermittent.Device, traces.Trace]:
    small = st.integers(0, 50)
    device = intermittent.Device(
        capacity_nj=draw(st.integers(500, 5000)),
        turn_on_nj=draw(st.integers(1, 1000)),
        leakage_nw=draw(small),
        sleep_nw=draw(small),
        period_ms=draw(st.integers(500, 20_000)),
        begin_nj=draw(st.integers(0, 200)),
        begin_ms=draw(st.integers(0, 2000)),
        member_nj=draw(st.integers(1, 500)),
        member_ms=draw(st.integers(0, 2000)),
    )
    lengths = draw(st.lists(st.integers(1, 9000), min_size=1, max_size=20))
    power = draw(st.lists(st.integers(0, 500), min_size=20, max_size=20))
    return device, traces.Trace("drawn", np.cumsum(lengths).tolist(), power[: len(lengths)])


@given(runs(), st.integers(1, 4))
def test_energy_is_neither_made_nor_lost(run, members: int) -> None:
    device, trace = run
    found = intermittent.simulate(device, trace, partial(intermittent.Fixed, members), ALWAYS_RIGHT)
    store = found.store
    lengths = np.diff([0, *trace.ends_ms])
    assert store.harvested == int(lengths @ np.array(trace.power_nw))
    assert store.harvested == store.stored + store.drained + store.spent + store.spilled
    assert 0 <= store.stored <= store.capacity
    assert found.answers + found.brown_outs <= found.images


@given(runs(), st.integers(1, 4))
def test_policy_never_browns_out(run, members: int) -> None:
    device, trace = run
    policy = partial(harvesting.policy_of, device, members)
    found = intermittent.simulate(device, trace, policy, ALWAYS_RIGHT)
    assert found.brown_outs == 0
    assert found.answers <= found.members <= members * found.answers


@given(runs(), st.integers(1, 4))
def test_full_capacitor_runs_all_members_if_it_can(run, members: int) -> None:
    device, _ = run
    policy = harvesting.policy_of(device, members)
    needed = policy.reserve_nj + device.begin_nj + (members + 1) * device.member_nj
    assert (policy.start(device.capacity_nj) == members) or needed > device.capacity_nj


@pytest.mark.parametrize("name", sorted(traces.HARVESTERS))
def test_harvesters(name: str) -> None:
    day, other = traces.made(name, 0, 0.5), traces.made(name, 1, 0.5)
    assert day == traces.made(name, 0, 0.5)
    assert day.power_nw != other.power_nw
    assert day.hours == 24
    whole = np.array(traces.made(name, 0, 1.0).power_nw)
    np.testing.assert_allclose(day.power_nw, whole / 2, atol=1)
    assert whole.min() >= 0
    assert 5e4 < whole.mean() < 5e6  # 50 uW to 5 mW


def test_nights_are_dark_and_rests_are_still() -> None:
    assert not any(traces.made("light", 0, 1.0).between(0, 6).power_nw)
    walks = np.array(traces.made("walking", 0, 1.0).power_nw)
    assert not walks[: 7 * 3600].any()
    assert 0.1 < (walks[7 * 3600 : 23 * 3600] > 0).mean() < 0.5  # 8 minutes of 33


def test_fading_is_rayleigh() -> None:
    # The power of Rayleigh's fading is exponential: its mean is its standard deviation.
    power = np.array(traces.made("radio", 0, 1.0).power_nw, float)
    power = power[power > 0]
    assert power.std() == pytest.approx(power.mean(), rel=0.1)
    assert power.mean() == pytest.approx(0.453e6, rel=0.15)  # Friis, by hand


def test_part_of_a_trace() -> None:
    trace = traces.Trace("steps", [3_600_000, 7_200_000, 10_800_000], [1, 2, 3])
    part = trace.between(0.5, 2.5)
    assert (list(part.ends_ms), list(part.power_nw)) == (
        [1_800_000, 5_400_000, 7_200_000],
        [1, 2, 3],
    )
    for hours in ((3, 4), (2, 1), (1, 1)):
        with pytest.raises(EnsembleError, match="`hours` must be within the 3 hours of the trace"):
            trace.between(*hours)


def test_csv(tmp_path) -> None:
    file = tmp_path / "roof.csv"
    file.write_text("\ufefftime_s, power_w\n10,0.001\n10.5,2e-6\n\n12,0\n", encoding="utf-8")
    trace = traces.read_trace(file, 0.8)
    assert trace == traces.Trace("roof", [500, 2000], [800_000, 1600])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line must be time_s,power_w. Received: ''"),
        ("power_w,time_s\n1,2\n", "first line must be time_s,power_w. Received: 'power_w,time_s'"),
        ("time_s,power_w\n0,1\n", "needs two rows or more"),
        ("time_s,power_w\n0,1\nx,1\n", "line 3: .* Received: 'x,1'"),
        ("time_s,power_w\n0\n1,1\n", "line 2: .* Received: '0'"),
        ("time_s,power_w\n0,-1\n1,1\n", "line 2: .*from 0 to 4 watts.* Received: '0,-1'"),
        ("time_s,power_w\n0,nan\n1,1\n", "line 2"),
        ("time_s,power_w\n0,1\ninf,1\n", "line 3"),
        ("time_s,power_w\n0,1\n\n0,1\n", "line 4: times must ascend .* Received: 0"),
        ("time_s,power_w\n0,1\n0.0001,1\n", "line 3: times must ascend"),
    ],
)
def test_csv_that_is_none(tmp_path, text: str, message: str) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(text)
    with pytest.raises(EnsembleError, match=f"`trace` .*trace.csv.* {message}"):
        traces.read_trace(file)


def test_csv_that_is_not_there(tmp_path) -> None:
    with pytest.raises(EnsembleError, match=r"`trace` .* can't be read \(No such file"):
        traces.read_trace(tmp_path / "none.csv")
    (tmp_path / "image.csv").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(EnsembleError, match=r"`trace` .* can't be read \(it is no text"):
        traces.read_trace(tmp_path / "image.csv")


def test_device_of_options_by_hand() -> None:
    device = harvesting.device_of(
        [8e6, 12e6],
        nj_per_instruction=0.3,
        mhz=80,
        image_uj=100,
        period=30,
        capacitance_mf=100,
        volts=(1.8, 2, 3.3),
        leakage_uw=15,
        sleep_uw=5,
    )
    assert device == intermittent.Device(
        capacity_nj=382_500_000,  # 0.1 F * (3.3^2 - 1.8^2) / 2
        turn_on_nj=38_000_000,
        leakage_nw=15_000,
        sleep_nw=5000,
        period_ms=30_000,
        begin_nj=2_500_000,
        begin_ms=100,
        member_nj=3_600_000,
        member_ms=150,
    )


def made_up(images: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits `[4, images, 3]` of members that are right more often the more there are."""
    draw = np.random.default_rng(0)
    labels = draw.integers(3, size=images)
    return 2 * np.eye(3)[labels] + draw.normal(0, 2, (4, images, 3)), labels


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Calls the script on made-up logits; returns its output."""
    logits, labels = made_up(500)
    metadata = SimpleNamespace(
        scheme="fusion", weights=None, temperatures=(1.0,) * 4, cascade=Cascade((2.0, None, 1.0))
    )
    fake = SimpleNamespace(
        ensemble=SimpleNamespace(metadata=metadata),
        of=lambda split: logits,
        labels=lambda split: labels,
        images=lambda split: np.zeros((500, 2, 2, 1), np.uint8),
    )
    monkeypatch.setattr(harvesting, "Logits", lambda *arguments: fake)
    file = tmp_path / "made.tflite"
    file.touch()

    def call(*arguments: object) -> str:
        words = [str(each) for each in (file, "--instructions", "8e6,12e6", *arguments)]
        done = CliRunner().invoke(harvesting.main, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    return call


def test_table_page_and_figure(tool, tmp_path) -> None:
    trace, page, result = (tmp_path / name for name in ("roof.csv", "page.md", "result.json"))
    trace.write_text("time_s,power_w\n0,0.0005\n3600,0.01\n7200,0\n")
    page.write_text(f"before\n{harvesting.BEGIN}\nstale\n{harvesting.END}\nafter\n")
    tool("--trace", trace, "--seeds", 3, "--write", page, "--json", result, "--out", tmp_path / "f")
    rows = {row["way"]: row for row in json.loads(result.read_text())["rows"]}
    assert list(rows) == [
        *(f"{m}, {how}" for m in (1, 4) for how in ("always", "if paid")),
        harvesting.POLICY,
        harvesting.WITH_CASCADE,
    ]
    policy, one, four = (rows[way] for way in (harvesting.POLICY, "1, always", "4, if paid"))
    assert policy["less_than_policy"] == policy["brown_outs_per_day"] == 0
    assert one["members"] == 1
    assert four["members"] == 4
    assert 1 < policy["members"] < 4
    # Images of one member are as many as can be; the policy's answers are better.
    assert policy["answered"] > four["answered"]
    assert policy["right"] > one["right"]
    assert policy["less_than_policy_95"] == 0
    for row in rows.values():
        assert len(row["correct_per_hour"]) == 3
        means = np.mean(policy["correct_per_hour"]) - np.mean(row["correct_per_hour"])
        assert row["less_than_policy"] == pytest.approx(means)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "stale" not in text
    assert all(f"| roof | {way} |" in text for way in rows)
    assert {path.suffix for path in tmp_path.glob("f.*")} == {".png", ".svg"}


def test_interval_by_hand() -> None:
    # Student's t of 2 degrees of freedom is 4.303 at 97.5 %.
    assert harvesting.half_width(np.array([1.0, 2, 3])) == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    assert harvesting.half_width(np.array([1.0])) is None


def test_judged_by_hand() -> None:
    logits = np.array([[[0.0, 1]], [[4, 0]], [[0, 9]]])  # of one image; the means: -1/2, +3/2, -2
    metadata = SimpleNamespace(
        scheme="fusion", weights=None, temperatures=None, cascade=Cascade((1.01, 1.49))
    )
    right, enough = harvesting.judged(logits, np.array([1]), metadata)
    assert right[:, 0].tolist() == [True, False, True]
    assert enough is not None
    assert enough[:, 0].tolist() == [False, True, False]


def test_errors(tool) -> None:
    for words, message in (
        (["--members", "9"], "`members` must be numbers from 1 to 4. Received: 9"),
        (["--instructions", "5"], "`instructions` must be two numbers. Received: 1"),
        (["--volts", "2,1,3"], "`volts` must be three that ascend. Received: 2, 1, 3"),
        (["--capacitance-mf", "0.1"], "take a larger `capacitance_mf`"),
        (["--harvester", "wind"], "Unknown harvester 'wind'. Known: light, radio, walking."),
    ):
        with pytest.raises(EnsembleError, match=message):
            tool("--seeds", 1, *words)
