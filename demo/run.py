"""Runs the checks against this copy's stack, and shows each as it ends."""

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
    """The checks in their order: what waits longest is prepared first and looked at last."""
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
    """Set up and start what is not running, run every check; returns the exit code: 0 only if all passed.

    With `stop` everything is stopped at the end, after a failure too.
    """
    console = Console(highlight=False, soft_wrap=True)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    stack = Stack(lambda line: errors.print(f"backline: {line}", style="dim", markup=False))
    try:
        stack.up()
        table = CheckTable(console)
        with DemoContext(stack, table.show_progress) as world:
            passed, checks = run_checks(world, all_checks(), table), len(all_checks())
        if not stop:
            _print_endpoints(console, stack)
    finally:
        if stop:
            stack.down()
    if stop:
        console.print(f"Stopped. State and mail: {stack.paths.home}", markup=False)
    console.print(f"demo: {passed} of {checks} checks passed", markup=False)
    return 0 if passed == checks else 1


def run_checks(world: DemoContext, checks: Sequence[Check], table: CheckTable) -> int:
    """Run checks in their order and show each; returns how many passed. The mail server's faults are always cleared."""
    passed = 0
    health, *others = checks
    try:
        world.mail.set_faults()
        well = table.run_check(1, health, world)
        passed += well
        for check in others if well else ():
            table.prepare(check, world)
        for number, check in enumerate(others, 2):
            passed += table.run_check(number, check, world) if well else table.skip(number, check)
    finally:
        table.close()
        with contextlib.suppress(BacklineError):
            world.mail.set_faults()
    return passed


def _print_endpoints(console: Console, stack: Stack) -> None:
    console.print(
        f"\nAirflow   http://localhost:{stack.paths.port}   user admin, password {stack.secrets.admin_password}\n"
        f"Mail      http://localhost:{stack.paths.mail_web_port}   webhooks: /webhooks\n"
        f"State     {stack.paths.home}   logs in {stack.paths.log_folder}\n"
        f"Stop      ./backline down\n",
        markup=False,
    )
