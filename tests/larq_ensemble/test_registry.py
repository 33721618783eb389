"""Names of anything, and what an unknown one says."""

from __future__ import annotations

import pytest

from larq_ensemble.errors import EnsembleError, UnknownNameError
from larq_ensemble.registry import Registry


def test_entries_by_name() -> None:
    registry: Registry[int] = Registry("number")
    assert registry.register("two", 2) == 2
    registry.register("one", 1)
    assert registry["two"] == 2
    assert list(registry) == ["two", "one"]
    assert "one" in registry
    assert "three" not in registry


@pytest.mark.parametrize("name", ["three", "", None, 1, ["one"]])
def test_unknown_names_list_the_known_ones(name: object) -> None:
    registry: Registry[int] = Registry("number")
    registry.register("two", 2)
    registry.register("one", 1)
    with pytest.raises(UnknownNameError) as error:
        registry[name]
    assert str(error.value) == f"Unknown number {name!r}. Known: one, two."
    assert isinstance(error.value, EnsembleError)


def test_a_name_is_registered_once() -> None:
    registry: Registry[int] = Registry("number")
    registry.register("one", 1)
    with pytest.raises(EnsembleError, match="'one' is registered already"):
        registry.register("one", 2)
    assert registry["one"] == 1
