"""Times the import of DAG files: `python -m bench.parse_probe TRIVIAL_FILE FILE...` prints JSON.

First `import airflow`; then a trivial DAG file, as any task of bare Airflow would parse, with all that its runner loads;
then our plugins. From there on in forks, as Airflow's own processes do: all files together, and with `--alone` each by
itself, asked for one of its DAGs. Seconds; `dags` are the ids that each file made.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

DAG_ID_VARIABLE = "_AIRFLOW_PARSING_CONTEXT_DAG_ID"
"""Airflow's variable by which a DAG file learns which of its DAGs is wanted."""
Parsed = dict[str, dict[str, Any]]
"""By file: `seconds` and `dags`."""


def measure(trivial: str, files: list[str], *, alone: bool) -> dict[str, object]:
    """All steps in the order in which a task takes them."""
    import airflow

    started = time.perf_counter()
    import airflow.sdk.execution_time.task_runner  # noqa: F401 - what a task runs in
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.plugins_manager import ensure_plugins_loaded

    def parse(path: str) -> list[str]:
        bag = BundleDagBag(
            dag_folder=path, safe_mode=False, load_op_links=False, bundle_path=Path(path).parent, bundle_name="bench"
        )
        if bag.import_errors:
            sys.exit(str(bag.import_errors))
        return sorted(bag.dags)

    def timed(paths: list[str], wanted: str | None = None) -> Parsed:
        if wanted:
            os.environ[DAG_ID_VARIABLE] = wanted
        found: Parsed = {}
        for path in paths:
            begun = time.perf_counter()
            dags = parse(path)
            found[path] = {"seconds": time.perf_counter() - begun, "dags": dags}
        return found

    parse(trivial)
    ready = time.perf_counter()
    ensure_plugins_loaded()
    plugins = time.perf_counter()
    together = run_in_fork(lambda: timed(files))
    single: Parsed = {}
    for path in files if alone else []:
        single |= run_in_fork(partial(timed, [path], max(together[path]["dags"], default=None)))
    return {"anyway": ready - started, "plugins": plugins - ready, "together": together, "alone": single}


def run_in_fork(work: Callable[[], Parsed]) -> Parsed:
    """What `work` returns in a fork of this process, in which nothing that it imports stays."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with os.fdopen(writer, "w", encoding="utf-8") as answer:
                json.dump(work(), answer)
            code = 0
        except BaseException:  # noqa: BLE001 - nothing may go on beyond the fork
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as answer:
        text = answer.read()
    if os.waitpid(pid, 0)[1]:
        sys.exit(1)
    return cast("Parsed", json.loads(text))


if __name__ == "__main__":
    _, *arguments = sys.argv
    paths = [word for word in arguments if word != "--alone"]
    print(json.dumps(measure(paths[0], paths[1:], alone="--alone" in arguments)))
