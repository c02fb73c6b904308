from __future__ import annotations

import pytest

from backline.errors import InvalidInput
from backline.jobs.job import Params


def test_an_undeclared_key_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"conf\.order: is not a parameter of this job; use one of: order_id"):
        Params({"order": 1}, {"order_id"})


def test_values_are_typed() -> None:
    params = Params({"id": 7, "days": 2, "name": "a", "dry_run": False, "unset": None})
    assert params.required("id", int) == 7
    assert params.required("days", float) == 2.0
    assert params.required("dry_run", bool) is False
    assert params.optional("unset", str) is None
    assert params.optional("missing", str) is None


@pytest.mark.parametrize(("name", "kind"), [("id", str), ("flag", int), ("text", int), ("id", bool), ("flag", float)])
def test_a_value_of_another_type_is_refused(name: str, kind: type) -> None:
    with pytest.raises(InvalidInput, match=rf"conf\.{name}: must be "):
        Params({"id": 7, "flag": True, "text": "7"}).required(name, kind)


@pytest.mark.parametrize("kind", [int, float])
@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**400])
def test_a_number_that_postgresql_cannot_hold_is_refused(value: int, kind: type) -> None:
    with pytest.raises(InvalidInput, match=r"^conf\.id: must be a whole number of at most 18 digits$"):
        Params({"id": value}).required("id", kind)


def test_a_required_value_that_is_not_set_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"conf\.id: is required: give a whole number"):
        Params({"id": None}).required("id", int)
