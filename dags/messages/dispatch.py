"""One `dispatch_*` DAG for each lane: it sends the lane's messages."""

from __future__ import annotations

from airflow.sdk import get_parsing_context

from backline.airflow.dispatch import dispatch_dag, dispatch_dag_id
from backline.settings import settings

wanted = get_parsing_context().dag_id
for lane in settings().lanes:
    if wanted in (None, dispatch_dag_id(lane)):
        globals()[dispatch_dag_id(lane)] = dispatch_dag(lane, settings())
