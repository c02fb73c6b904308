"""Suppressions and preferences over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.web.conftest import Api


def test_an_address_is_suppressed_listed_and_removed(api: Api) -> None:
    given = {"channel": "email", "address": "Ann Lee <ANN@Example.com>", "detail": "asked by phone"}
    added = api.post("suppressions", given)
    assert added.status_code == 201
    row = added.json()
    assert (row["address"], row["reason"], row["source"], row["until"]) == ("ann@example.com", "manual", "op-1", None)
    for query in ("", "?address=ann@EXAMPLE.com", "?channel=email&reason=manual"):
        assert [one["id"] for one in api.get(f"suppressions{query}").json()["suppressions"]] == [row["id"]]
    assert api.get("suppressions?channel=sms").json() == {"suppressions": [], "next": None}
    assert api.get("preferences?channel=email&address=ann@example.com").json()["suppression"]["id"] == row["id"]
    removed = api.post(f"suppressions/{row['id']}/remove")
    assert (removed.status_code, removed.json()["address"]) == (200, "ann@example.com")
    assert api.post(f"suppressions/{row['id']}/remove").status_code == 404
    acts = api.get("audit-trail", "admin").json()["entries"]
    assert [(act["action"], act["actor"]) for act in acts] == [
        ("suppression.remove", "op-1"),
        ("suppression.add", "op-1"),
    ]
    assert acts[0]["before"]["detail"] == "asked by phone"


def test_a_temporary_suppression_expires(api: Api) -> None:
    given = {"channel": "sms", "address": "+49 170 1234567", "until": "2030-01-31T12:00:00Z"}
    assert api.post("suppressions", given).json()["until"] == "2030-01-31T12:00:00Z"
    api.sql("UPDATE backline.suppression SET until = clock_timestamp() - interval '1 s'")
    assert api.get("suppressions").json()["suppressions"] == []


def test_a_long_list_is_paged(api: Api) -> None:
    for number in range(5):
        api.post("suppressions", {"channel": "email", "address": f"a{number}@example.com"})
    seen: list[str] = []
    path: str | None = "suppressions?limit=2"
    while path:
        page = api.get(path).json()
        seen += [one["address"] for one in page["suppressions"]]
        path = page["next"]
    assert seen == [f"a{number}@example.com" for number in (4, 3, 2, 1, 0)]


def test_preferences_are_replaced_as_a_whole(api: Api) -> None:
    given = {
        "channel": "email", "address": "Ann@example.com", "zone": "Europe/Berlin", "quiet_from": "21:00",
        "quiet_until": "08:00", "per_day": 3, "opted_out": ["newsletter"],
    }  # fmt: skip
    answer = api.post("preferences", given)
    assert answer.status_code == 200
    found = api.get("preferences?channel=email&address=ann@example.com").json()
    assert found == answer.json()
    assert (found["zone"], found["quiet_from"], found["quiet_until"], found["per_day"]) == ("Europe/Berlin", "21:00:00", "08:00:00", 3)  # fmt: skip
    assert [(one["topic"], one["source"]) for one in found["opted_out"]] == [("newsletter", "op-1")]
    cleared = api.post("preferences", {"channel": "email", "address": "ann@example.com", "opted_out": ["*"]}).json()
    assert (cleared["zone"], cleared["per_day"], [one["topic"] for one in cleared["opted_out"]]) == (None, None, ["*"])
    kept = api.post("preferences", {"channel": "email", "address": "ann@example.com", "per_day": 1}).json()
    assert [one["topic"] for one in kept["opted_out"]] == ["*"]


def test_an_unknown_recipient_has_the_defaults(api: Api) -> None:
    found = api.get("preferences?channel=email&address=nobody@example.com").json()
    assert (found["opted_out"], found["suppression"], found["zone"]) == ([], None, None)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("suppressions", {"channel": "email", "address": "ann"}, "address"),
        ("suppressions", {"channel": "sms", "address": "0170"}, "address"),
        ("suppressions", {"channel": "pigeon", "address": "ann@example.com"}, "channel"),
        ("suppressions", {"channel": "email"}, "address"),
        ("suppressions", {"channel": "email", "address": "ann@example.com", "until": "tomorrow"}, "until"),
        ("suppressions", {"channel": "email", "address": "ann@example.com", "why": "x"}, "why"),
        ("preferences", {"channel": "email", "address": "ann@example.com", "zone": "Mars"}, "zone"),
        ("preferences", {"channel": "email", "address": "ann@example.com", "quiet_from": "21:00"}, "quiet_until"),
        ("preferences", {"channel": "email", "address": "ann@example.com", "quiet_from": "9pm", "quiet_until": "08:00"}, "quiet_from"),
        ("preferences", {"channel": "email", "address": "ann@example.com", "per_day": -1}, "per_day"),
        ("preferences", {"channel": "email", "address": "ann@example.com", "opted_out": ["gossip"]}, "topic"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_and_nothing_is_stored(api: Api, path: str, body: dict[str, Any], field: str) -> None:
    answer = api.post(path, body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
    assert api.sql("SELECT 1 AS one FROM backline.suppression") == []
    assert api.sql("SELECT 1 AS one FROM backline.recipient_preference") == []
