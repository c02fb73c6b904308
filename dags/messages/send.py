"""Sending one message: one DAG a message type, its form made from the type's model."""

from __future__ import annotations

from airflow.sdk import get_parsing_context

from backline.airflow.send import send_dag, send_dag_id, types_wanted
from backline.settings import settings

for kind in types_wanted(get_parsing_context().dag_id):
    globals()[send_dag_id(kind.type_name)] = send_dag(kind, settings())
