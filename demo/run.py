"""Runs the checks against the embedded stack and prints each result."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from rich.console import Console

from backline.errors import BacklineError
from demo import commerce, failures, faults, health, http_api, secrets, send_runs, speed, sql_enqueue, webhooks
from demo.check import Check
from demo.context import DemoContext
from demo.table import CheckTable
from stack.lifecycle import Stack


def all_checks() -> list[Check]:
    """All checks in order; those that wait longest are prepared first and checked last."""
    return [
        health.health_check(),
        *send_runs.checks(),
        secrets.secret_reference_check(),
        webhooks.signed_event_check(),
        *http_api.checks(),
        *commerce.checks(),
        *sql_enqueue.checks(),
        faults.permanent_fault_check(),
        *failures.checks(),
        *speed.checks(),
        faults.dispatcher_kill_check(),
        faults.transient_fault_check(),
        health.conservation_check(),
    ]


def run(stop: bool) -> int:  # noqa: FBT001 - the command's option
    """Set up, start what is not running and run every check; returns the exit code, 0 only if all passed.

    With `stop`, everything is stopped at the end, also after a failure.
    """
    console = Console(highlight=False, soft_wrap=True)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    stack = Stack(lambda line: errors.print(f"backline: {line}", style="dim", markup=False))
    try:
        stack.up()
        table = CheckTable(console)
        with DemoContext(stack, table.show_progress) as context:
            passed, checks = run_checks(context, all_checks(), table), len(all_checks())
        if not stop:
            _print_endpoints(console, stack)
    finally:
        if stop:
            stack.down()
    if stop:
        console.print(f"Stopped. State and mail: {stack.paths.home}", markup=False)
    console.print(f"demo: {passed} of {checks} checks passed", markup=False)
    return 0 if passed == checks else 1


def run_checks(context: DemoContext, checks: Sequence[Check], table: CheckTable) -> int:
    """Run checks in order and print each; returns how many passed. Always clears the mail server's fault rules."""
    passed = 0
    first, *others = checks
    try:
        context.mail.set_faults()
        healthy = table.run_check(1, first, context)
        passed += healthy
        for check in others if healthy else ():
            table.prepare(check, context)
        for number, check in enumerate(others, 2):
            passed += table.run_check(number, check, context) if healthy else table.skip(number, check)
    finally:
        table.close()
        with contextlib.suppress(BacklineError):
            context.mail.set_faults()
    return passed


def _print_endpoints(console: Console, stack: Stack) -> None:
    console.print(
        f"\nAirflow   http://localhost:{stack.paths.port}   user admin\n"
        f"Mail      http://localhost:{stack.paths.mail_web_port}   user sandbox; webhooks: /webhooks\n"
        f"State     {stack.paths.home}   passwords: {stack.paths.secrets_file}, logs: {stack.paths.log_folder}\n"
        f"Stop      ./backline down\n",
        markup=False,
    )
