"""Stores the registry's message types and the settings' lanes in the database, where `backline.enqueue` reads them."""

from __future__ import annotations

import json
from typing import Any

import psycopg

from backline.db.statements import statement
from backline.messages.base import MessageType
from backline.messages.registry import all_types
from backline.messages.rules import spec
from backline.preferences.quiet_hours import zone_names
from backline.settings import Settings, settings


def sync_types(connection: psycopg.Connection[Any]) -> list[str]:
    """Write every lane, time zone and registered type, in the caller's transaction; returns the types' names.

    Misconfigured if a type's lane is not in the settings. A type that is no longer registered stays in the database, for its
    messages.
    """
    lanes = settings().lanes
    for name, lane in lanes.items():
        row = {"name": name, "channel": lane.channel, "priority": lane.priority}
        connection.execute(statement("outbox", "lane_sync"), row)
    connection.execute(statement("outbox", "lane_delete_missing"), {"names": list(lanes)})
    connection.execute(statement("preferences", "time_zone_sync"), {"names": list(zone_names().values())})
    names = []
    for kind in all_types():
        connection.execute(statement("outbox", "message_type_sync"), type_row(kind, settings()))
        names.append(kind.type_name)
    return names


def type_row(kind: type[MessageType], config: Settings) -> dict[str, Any]:
    """One type as a row of `backline.message_type`."""
    rules = spec(kind)
    fields = [
        {
            "name": name,
            "required": rule["required"],
            "json_types": rule["type"],
            "min_length": rule.get("min_length", 0),
            "max_length": rule.get("max_length"),
            "choices": rule.get("enum"),
            "minimum": rule.get("minimum"),
            "maximum": rule.get("maximum"),
            "secret": name in rules["secret"],
        }
        for name, rule in rules["fields"].items()
    ]
    routes = []
    for channel, lane_name in rules["lanes"].items():
        lane = config.lane(lane_name)
        routes.append({
            "channel": channel,
            "lane": lane_name,
            "priority": lane.priority,
            "max_attempts": rules["max_attempts"] or lane.max_attempts,
        })  # fmt: skip
    return {
        "name": kind.type_name,
        "version": kind.version,
        "fields": json.dumps(fields),
        "field_names": list(rules["fields"]),
        "secret_fields": rules["secret"],
        "routes": json.dumps(routes),
    }
