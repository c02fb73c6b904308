"""The demo: real work through a running stack, each thing it shows a named check. `./backline demo` runs it."""

from __future__ import annotations

from demo.run import run as run
