"""The power policy by hand, by its promises on random numbers, and in C against Python."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from larq_ensemble.errors import EnsembleError
from larq_ensemble.runtime.power import PowerPolicy, stored_energy_nj

from ...c_compiler import library_of

ENERGIES = st.integers(0, 2000)
POLICIES = st.builds(
    PowerPolicy,
    members=st.integers(1, 10),
    begin_nj=ENERGIES,
    member_nj=st.integers(1, 500),
    reserve_nj=ENERGIES,
    savings_nj=ENERGIES,
    hysteresis_nj=ENERGIES,
    last=st.integers(0, 10),
)


def cost(policy: PowerPolicy, members: int) -> int:
    return policy.begin_nj + members * policy.member_nj


def test_by_hand() -> None:
    policy = PowerPolicy(members=4, begin_nj=10, member_nj=20, reserve_nj=5)
    # One member needs 5 + 10 + 20, each further one 20 more.
    assert [policy.start(stored) for stored in (34, 35, 54, 55, 74, 75, 95, 1000)] == [
        *(0, 1, 1, 2, 2, 3, 4, 4)
    ]


def test_savings_are_for_first_members() -> None:
    policy = PowerPolicy(members=4, begin_nj=10, member_nj=20, savings_nj=100)
    # The first member is paid from anything, two together only from what is above 100.
    assert [policy.start(stored) for stored in (29, 30, 149, 150, 169, 170, 190)] == [
        *(0, 1, 1, 2, 2, 3, 4)
    ]


def test_number_rises_with_a_surplus_and_falls_at_once() -> None:
    policy = PowerPolicy(members=4, begin_nj=0, member_nj=10, hysteresis_nj=5)
    # 1 member at 15, as 5 are left; 2 members at 25. Once there, 2 until they can't be paid.
    assert [policy.start(stored) for stored in (14, 15, 24, 25, 20, 24, 19, 20, 25)] == [
        *(0, 1, 1, 2, 2, 2, 1, 1, 2)
    ]


def test_member_may_start_if_it_is_paid() -> None:
    policy = PowerPolicy(members=4, begin_nj=1000, member_nj=20, reserve_nj=5, savings_nj=1000)
    assert [policy.proceed(stored) for stored in (0, 24, 25)] == [False, False, True]


@given(POLICIES, st.lists(st.integers(0, 10_000), max_size=20))
def test_starts_only_what_stored_energy_pays_for(policy: PowerPolicy, levels: list[int]) -> None:
    for stored in levels:
        members = policy.start(stored)
        assert 0 <= members <= policy.members
        if members:
            assert cost(policy, members) + policy.reserve_nj <= stored
            for done in range(members):  # so each of them may start
                assert policy.proceed(stored - cost(policy, done))
        if members > 1:
            assert stored - cost(policy, members) - policy.reserve_nj >= policy.savings_nj


@given(POLICIES, st.integers(0, 10_000), st.data())
def test_level_that_moves_less_than_the_hysteresis_never_lowers_the_number(
    policy: PowerPolicy, low: int, data: st.DataObject
) -> None:
    policy.last = 0
    levels = data.draw(st.lists(st.integers(low, low + policy.hysteresis_nj)))
    members = [policy.start(stored) for stored in levels]
    assert members == sorted(members)


@given(POLICIES, st.integers(0, 10_000), st.integers(0, 1000))
def test_more_energy_is_never_fewer_members(policy: PowerPolicy, stored: int, more: int) -> None:
    last = policy.last
    members = policy.start(stored)
    policy.last = last
    assert policy.start(stored + more) >= members


def test_stored_energy_by_hand() -> None:
    # 1000 uF from 3 V to 2 V: 1e-3 * (9 - 4) / 2 J.
    assert stored_energy_nj(1000, 3000, 2000) == 2_500_000
    assert stored_energy_nj(1, 41, 9) == 0  # 0.8 nJ
    assert stored_energy_nj(1000, 1800, 1800) == stored_energy_nj(1000, 0, 1800) == 0
    assert stored_energy_nj(2**32 - 1, 2**16 - 1, 0) == (2**32 - 1) * (2**16 - 1) ** 2 // 2000


@pytest.mark.parametrize(
    ("argument", "value"),
    [("members", 0), ("member_nj", 0), ("begin_nj", -1), ("savings_nj", 0.5), ("last", 2**32)],
)
def test_numbers_out_of_range(argument: str, value: float) -> None:
    arguments = {"members": 4, "begin_nj": 1, "member_nj": 1, argument: value}
    with pytest.raises(EnsembleError, match=f"`{argument}` must be a whole number from .* {value}"):
        PowerPolicy(**arguments)  # type: ignore[arg-type]


def test_stored_energy_out_of_range() -> None:
    policy = PowerPolicy(members=4, begin_nj=1, member_nj=1)
    for ask in (policy.start, policy.proceed):
        with pytest.raises(EnsembleError, match="`stored_nj` must be a whole number from 0"):
            ask(-1)
    with pytest.raises(EnsembleError, match="`voltage_mv` must be a whole number from 0 to 65535"):
        stored_energy_nj(1000, 65_536, 1800)


class InC(ctypes.Structure):
    """`power_policy` of power_policy.h."""

    _fields_ = (
        ("members", ctypes.c_uint),
        ("begin_nj", ctypes.c_uint64),
        ("member_nj", ctypes.c_uint64),
        ("reserve_nj", ctypes.c_uint64),
        ("savings_nj", ctypes.c_uint64),
        ("hysteresis_nj", ctypes.c_uint64),
        ("last", ctypes.c_uint),
    )


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    source = Path(__file__).parents[3] / "examples" / "microcontroller" / "power_policy.c"
    loaded = library_of(tmp_path_factory.mktemp("power"), source)
    loaded.power_policy_start.argtypes = (ctypes.POINTER(InC), ctypes.c_uint64)
    loaded.power_policy_start.restype = ctypes.c_uint
    loaded.power_policy_proceed.argtypes = (ctypes.POINTER(InC), ctypes.c_uint64)
    loaded.power_policy_stored_nj.argtypes = (ctypes.c_uint32, ctypes.c_uint16, ctypes.c_uint16)
    loaded.power_policy_stored_nj.restype = ctypes.c_uint64
    return loaded


# Small numbers, where limits meet, and such as overflow.
ANY_ENERGY = st.integers(0, 100) | st.integers(0, 2**64 - 1) | st.integers(2**64 - 100, 2**64 - 1)
ANY_COUNT = st.integers(1, 10) | st.integers(1, 2**32 - 1)


@given(
    policy=st.builds(
        PowerPolicy,
        members=ANY_COUNT,
        begin_nj=ANY_ENERGY,
        member_nj=st.integers(1, 20) | st.integers(1, 2**64 - 1),
        reserve_nj=ANY_ENERGY,
        savings_nj=ANY_ENERGY,
        hysteresis_nj=ANY_ENERGY,
    ),
    levels=st.lists(ANY_ENERGY, max_size=20),
)
def test_c_decides_as_python(in_c, policy: PowerPolicy, levels: list[int]) -> None:
    same = InC(**vars(policy))
    for stored in levels:
        assert in_c.power_policy_start(same, stored) == policy.start(stored)
        assert same.last == policy.last
        assert bool(in_c.power_policy_proceed(same, stored)) == policy.proceed(stored)


@given(st.integers(1, 2**32 - 1), st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1))
def test_c_stores_as_python(in_c, capacitance: int, voltage: int, brown_out: int) -> None:
    stored = in_c.power_policy_stored_nj(capacitance, voltage, brown_out)
    assert stored == stored_energy_nj(capacitance, voltage, brown_out)
