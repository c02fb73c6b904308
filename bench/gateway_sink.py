"""The far side of SMS, push and webhooks: nginx, which takes everything, keeps nothing, and counts."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

from backline.errors import UnknownFailure
from testkit.processes import LOOPBACK, wait_for

_NGINX_CONFIG = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 512; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type application/json;
    server {{
        listen {host}:{port};
        location /sms/ {{ return 201 '{sms}'; }}
        location = /push/token {{ return 200 '{token}'; }}
        location /push/ {{ return 200 '{push}'; }}
        location /webhooks/ {{ return 200 'ok'; }}
        location = /status {{ stub_status; }}
    }}
}}
"""
_RESPONSES = {
    "sms": {"sid": "SM00000000000000000000000000000001", "status": "queued", "num_segments": "1", "error_code": None},
    "token": {"access_token": "bench", "expires_in": 3600, "token_type": "Bearer"},
    "push": {"name": "projects/bench/messages/1"},
}


def nginx_config(folder: Path, port: int) -> str:
    """nginx.conf; its temporary files in `folder`."""
    answers = {name: json.dumps(answer) for name, answer in _RESPONSES.items()}
    return _NGINX_CONFIG.format(folder=folder, host=LOOPBACK, port=port, **answers)


class GatewaySink:
    """nginx at `port`, as it counts requests."""

    def __init__(self, port: int) -> None:
        self.url = f"http://{LOOPBACK}:{port}"
        self._status_requests = 0

    def count(self) -> int:
        """Requests since its start, but for the looks at this very number."""
        with urllib.request.urlopen(f"{self.url}/status", timeout=5) as answer:
            self._status_requests += 1
            return int(answer.read().split(b"\n")[2].split()[2]) - self._status_requests

    def expect(self, before: int, minimum: int, maximum: int) -> None:
        """Between so many and so many more than `before` have come; else UnknownFailure."""
        wait_for(lambda: self.count() >= before + minimum, f"{minimum:,} requests at nginx", 10)
        if (arrived := self.count() - before) > maximum:
            raise UnknownFailure(f"{arrived:,} requests came, {minimum:,} messages were sent")
