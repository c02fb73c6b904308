"""The receiver of SMS, push and webhooks: nginx, which accepts, counts and discards all requests."""

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
    """Render nginx.conf, with temporary files in `folder`."""
    responses = {name: json.dumps(response) for name, response in _RESPONSES.items()}
    return _NGINX_CONFIG.format(folder=folder, host=LOOPBACK, port=port, **responses)


class GatewaySink:
    """nginx at `port` and its count of requests."""

    def __init__(self, port: int) -> None:
        self.url = f"http://{LOOPBACK}:{port}"
        self._status_requests = 0

    def count(self) -> int:
        """Requests since its start, without requests for this count."""
        with urllib.request.urlopen(f"{self.url}/status", timeout=5) as response:
            self._status_requests += 1
            return int(response.read().split(b"\n")[2].split()[2]) - self._status_requests

    def expect(self, before: int, minimum: int, maximum: int) -> None:
        """Check that `minimum` to `maximum` requests arrived since the count `before`; else UnknownFailure."""
        wait_for(lambda: self.count() >= before + minimum, f"{minimum:,} requests at nginx", 10)
        if (arrived := self.count() - before) > maximum:
            raise UnknownFailure(f"{arrived:,} requests arrived, {minimum:,} messages were sent")
