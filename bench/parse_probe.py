"""Times the import of DAG files in this fresh process: `python -m bench.parse_probe TRIVIAL_FILE FILE...` prints JSON.

First `import airflow`; then a trivial DAG file, as any task of bare Airflow would parse, with all that its runner loads;
then our plugins and the files. Seconds; `dags` are the ids that each file made.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main(trivial: str, files: list[str]) -> dict[str, object]:
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

    parse(trivial)
    ready = time.perf_counter()
    ensure_plugins_loaded()
    plugins = time.perf_counter()
    found = {}
    for path in files:
        begun = time.perf_counter()
        dags = parse(path)
        found[path] = {"seconds": time.perf_counter() - begun, "dags": dags}
    return {"anyway": ready - started, "plugins": plugins - ready, "files": found}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2:])))
