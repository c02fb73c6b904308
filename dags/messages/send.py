"""Sending one message: one DAG a message type, its form made from the type's model."""

from __future__ import annotations

from airflow.sdk import get_parsing_context

from backline.airflow.send import send_dag, send_dag_id
from backline.messages import registry
from backline.settings import settings

wanted = get_parsing_context().dag_id
for kind in registry.all_types():
    if wanted in (None, send_dag_id(kind.type_name)):
        globals()[send_dag_id(kind.type_name)] = send_dag(kind, settings())
