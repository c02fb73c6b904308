"""Run the mail catcher and the gateways: `python -m sandbox.mail --smtp-port N --web-port N --maildir DIR`.

It listens on 127.0.0.1 only; in a container, where loopback is unreachable from outside, give `--host 0.0.0.0`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from sandbox.mail.faults import MailFaults
from sandbox.mail.mailbox import Mailbox
from sandbox.mail.smtp import SmtpSession
from sandbox.mail.web import build_app

HOST = "127.0.0.1"


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no handlers: ours stop SMTP and the page together."""
        yield


def main() -> None:
    """Parse the options, bind the ports and serve. Exits 1 with one line if a port or the Maildir cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.mail", description="Mail catcher for development.")
    parser.add_argument("--host", default=HOST, help="the address to listen on (default: %(default)s)")
    parser.add_argument("--smtp-port", type=_parse_port, required=True, help="port for SMTP; 0 picks a free one")
    parser.add_argument("--web-port", type=_parse_port, required=True, help="port for the pages; 0 picks a free one")
    parser.add_argument("--maildir", type=Path, required=True, help="folder for the messages; created if missing")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="another allowed host name; repeatable"
    )
    parser.add_argument(
        "--login",
        action="store_true",
        help="ask for the password in BACKLINE_SANDBOX_PASSWORD; without it all may read",
    )
    options = parser.parse_args()
    password = os.environ.get("BACKLINE_SANDBOX_PASSWORD", "") if options.login else None
    if password == "":
        sys.exit("mail catcher: --login needs a password in BACKLINE_SANDBOX_PASSWORD")
    smtp = _bind_socket(options.host, options.smtp_port, "--smtp-port")
    web = _bind_socket(options.host, options.web_port, "--web-port")
    try:
        mailbox = Mailbox(options.maildir)
    except OSError as exc:
        sys.exit(f"mail catcher: cannot use the Maildir {options.maildir} ({exc.strerror}); choose another --maildir")
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(smtp, web, mailbox, options.allow_host, password))
    else:
        uvloop.run(_serve(smtp, web, mailbox, options.allow_host, password))


async def _serve(
    smtp: socket.socket, web: socket.socket, mailbox: Mailbox, hosts: list[str], password: str | None
) -> None:
    loop = asyncio.get_running_loop()
    faults = MailFaults()
    sessions: set[SmtpSession] = set()
    listener = await loop.create_server(lambda: SmtpSession(mailbox, faults, sessions), sock=smtp, backlog=1024)
    config = uvicorn.Config(
        build_app(mailbox, faults, hosts, password),
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, setattr, server, "should_exit", True)
    host, smtp_port = smtp.getsockname()
    sys.stdout.write(
        f"mail catcher: SMTP {host}:{smtp_port}, page http://{host}:{web.getsockname()[1]}/, "
        f"{len(mailbox)} messages in {mailbox.folder}"
        f"{'' if password else '; open: every user of this host can read them (--login)'}\n"
    )
    sys.stdout.flush()
    await server.serve(sockets=[web])
    listener.close()
    for session in list(sessions):
        session.abort()


def _parse_port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError("should be a port from 0 to 65535")
    return int(text)


def _bind_socket(host: str, port: int, option: str) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(1024)  # a second listener on the same port fails here at the latest
    except OSError as exc:
        reason = "is used by another program" if exc.errno == errno.EADDRINUSE else f"cannot be used ({exc.strerror})"
        sys.exit(f"mail catcher: port {port} on {host} {reason}; choose another with {option}")
    return bound


if __name__ == "__main__":
    main()
