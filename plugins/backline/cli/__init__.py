"""The `backline` command: `python -m backline.cli`, or `./backline` in the project's folder."""
