"""Stores the registry's message types and the settings' lanes in the database, where `backline.enqueue` reads them."""

from __future__ import annotations

import json
from typing import Any

import psycopg

from backline.channels.registry import definition, sql_pattern
from backline.db.statements import statement
from backline.messages.base import MessageType
from backline.messages.registry import all_types
from backline.messages.sql_checks import field_checks, payload_path, small_size
from backline.preferences.quiet_hours import zone_names
from backline.preferences.settings import PreferenceSettings
from backline.settings import CHANNELS, Settings, settings


def sync_types(connection: psycopg.Connection[Any]) -> list[str]:
    """Write every lane, channel, topic, time zone and registered type, in the caller's transaction; returns the types' names.

    Misconfigured if a type's lane is not in the settings. A type that is no longer registered stays in the database, for its
    messages.
    """
    lanes = settings().lanes
    for name, lane in lanes.items():
        row = {"name": name, "channel": lane.channel, "priority": lane.priority}
        connection.execute(statement("outbox", "lane_sync"), row)
    connection.execute(statement("outbox", "lane_delete_missing"), {"names": list(lanes)})
    for name in CHANNELS:
        found = definition(name)
        row = {
            "name": name, "recipient": sql_pattern(found.recipient_pattern()), "max_length": found.recipient_max_length,
            "problem": found.recipient_problem,
        }  # fmt: skip
        connection.execute(statement("outbox", "channel_sync"), row)
    connection.execute(statement("preferences", "time_zone_sync"), {"names": list(zone_names().values())})
    topics = settings().section(PreferenceSettings).topics
    connection.execute(statement("preferences", "topic_sync"), {"names": list(topics)})
    names = []
    for kind in all_types():
        sync_type(connection, kind, settings())
        names.append(kind.type_name)
    return names


def sync_type(connection: psycopg.Connection[Any], kind: type[MessageType], config: Settings) -> None:
    """Write one type and its fields' rules; Misconfigured if its lane is not in the settings."""
    checks = field_checks(kind)
    routes = []
    for channel, lane_name in kind.lanes.items():
        lane = config.lane(lane_name)
        routes.append({
            "channel": channel,
            "lane": lane_name,
            "priority": lane.priority,
            "max_attempts": kind.max_attempts or lane.max_attempts,
            "recipient": sql_pattern(definition(channel).short_recipient_pattern),
        })  # fmt: skip
    row = {
        "name": kind.type_name,
        "version": kind.version,
        "field_names": [check.name for check in checks],
        "rules": payload_path(checks),
        "small_size": small_size(kind, checks),
        "max_size": kind.max_payload_bytes,
        "limits": [limit.path for check in checks for limit in check.limits],
        "maxima": [limit.most for check in checks for limit in check.limits],
        "secret_fields": sorted(kind.secret_fields),
        "lifetime": kind.lifetime,
        "routes": json.dumps(routes),
    }
    connection.execute(statement("outbox", "message_type_sync"), row)
    connection.execute(statement("outbox", "field_rule_delete"), {"type": kind.type_name})
    for position, check in enumerate(checks):
        field = {
            "type": kind.type_name, "position": position, "name": check.name, "rule": json.dumps(check.rule), "path": check.path,
            "limits": [limit.path for limit in check.limits], "maxima": [limit.most for limit in check.limits],
        }  # fmt: skip
        connection.execute(statement("outbox", "field_rule_insert"), field)
