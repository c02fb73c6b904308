"""Every process of Airflow, including each task, loads the plugin file, so it must stay small."""

from __future__ import annotations

import subprocess
import sys

from backline.settings import ROOT

CODE = """
import sys
sys.path.insert(0, {plugins!r})
import airflow.plugins_manager
before = set(sys.modules)
import backline_plugin
plugin = backline_plugin.BacklinePlugin()
print(sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}))
"""


def test_the_plugin_file_imports_nothing_else() -> None:
    code = CODE.format(plugins=str(ROOT / "plugins"))
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd="/")
    assert done.stdout.splitlines()[-1] == "['backline_plugin']"
