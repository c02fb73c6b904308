"""One `send_*` DAG for each message type: it sends one message; its form comes from the type's model."""

from __future__ import annotations

from airflow.sdk import get_parsing_context

from backline.airflow.send import send_dag, send_dag_id, types_to_parse
from backline.settings import settings

for kind in types_to_parse(get_parsing_context().dag_id):
    globals()[send_dag_id(kind.type_name)] = send_dag(kind, settings())
