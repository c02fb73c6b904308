"""The app as a process of its own, as Airflow's api-server serves it: prints its port and a token of each role, then serves."""

from __future__ import annotations

import json
import socket

import uvicorn
from airflow.api_fastapi.app import init_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.app import init_middlewares
from fastapi import FastAPI

from backline.web.app import create_app
from backline.web.urls import PREFIX

ROLES = ("viewer", "op")


def main() -> None:
    """Serve on a free port of the loopback interface."""
    manager = init_auth_manager()
    tokens = {role: manager.generate_jwt(SimpleAuthManagerUser(username=f"{role}-1", role=role)) for role in ROLES}
    root = FastAPI()
    root.mount(PREFIX, create_app())
    init_middlewares(root)
    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": listener.getsockname()[1], "tokens": tokens}), flush=True)  # noqa: T201
    uvicorn.Server(uvicorn.Config(root, log_level="error", access_log=False)).run([listener])


if __name__ == "__main__":
    main()
