"""Times the import of DAG files: `python -m bench.parse_probe TRIVIAL_FILE FILE...` prints JSON.

First `import airflow`; then a trivial DAG file with everything that a task of bare Airflow loads (the baseline); then
the plugins. Then in forks, as in Airflow's own processes: all files together, and with `--alone` each file separately,
for one of its DAGs. Times are in seconds; `dags` are the ids that each file defines.
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
"""Airflow's variable that tells a DAG file which of its DAGs is needed."""
Parsed = dict[str, dict[str, Any]]
"""By file: `seconds` and `dags`."""


def measure(trivial: str, files: list[str], *, alone: bool) -> dict[str, object]:
    """All steps, in a task's order."""
    import airflow

    started = time.perf_counter()
    import airflow.sdk.execution_time.task_runner  # noqa: F401 - runs every task
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.plugins_manager import ensure_plugins_loaded

    def parse(path: str) -> list[str]:
        bag = BundleDagBag(
            dag_folder=path, safe_mode=False, load_op_links=False, bundle_path=Path(path).parent, bundle_name="bench"
        )
        if bag.import_errors:
            sys.exit(str(bag.import_errors))
        return sorted(bag.dags)

    def timed(paths: list[str], dag_id: str | None = None) -> Parsed:
        if dag_id:
            os.environ[DAG_ID_VARIABLE] = dag_id
        found: Parsed = {}
        for path in paths:
            started = time.perf_counter()
            dags = parse(path)
            found[path] = {"seconds": time.perf_counter() - started, "dags": dags}
        return found

    parse(trivial)
    ready = time.perf_counter()
    ensure_plugins_loaded()
    plugins = time.perf_counter()
    together = run_in_fork(lambda: timed(files))
    single: Parsed = {}
    for path in files if alone else []:
        single |= run_in_fork(partial(timed, [path], max(together[path]["dags"], default=None)))
    return {"baseline": ready - started, "plugins": plugins - ready, "together": together, "alone": single}


def run_in_fork(work: Callable[[], Parsed]) -> Parsed:
    """Run `work` in a fork of this process, which does not keep its imports, and return its result."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with os.fdopen(writer, "w", encoding="utf-8") as output:
                json.dump(work(), output)
            code = 0
        except BaseException:  # noqa: BLE001 - the fork must not continue
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as output:
        text = output.read()
    if os.waitpid(pid, 0)[1]:
        sys.exit(1)
    return cast("Parsed", json.loads(text))


if __name__ == "__main__":
    _, *arguments = sys.argv
    paths = [word for word in arguments if word != "--alone"]
    print(json.dumps(measure(paths[0], paths[1:], alone="--alone" in arguments)))
