"""libraries: two parts of our own beside the libraries that do the same.

Style sheets: emails rendered from templates whose tags have the CSS already, as our loader leaves them, and the same emails
with css_inline called on each. SMTP: the same built emails submitted over as many persistent connections, all in one process
on uvloop, by our session and by aiosmtplib. The sides take turns; each figure is the best of its rounds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

import aiosmtplib
import css_inline
import uvloop
from jinja2 import FileSystemLoader

from backline.channels.base import EmailContent, Message
from backline.channels.email.channel import EmailChannel, PreparedEmail
from backline.channels.email.settings import EmailSettings
from backline.rendering.catalog import TEMPLATE_FOLDER, templates
from backline.rendering.templates import EmailTemplate, compile_email, create_environment, render_email
from bench.harness import BenchRun
from bench.peers.emails import recipient
from bench.report import BenchResult, rounded
from smtp_pipeline import SmtpServer
from testkit.message_docs import sample_context

FOLDER = TEMPLATE_FOLDER / "email"
CONNECTIONS = 8
ROUNDS = 5


def run(bench: BenchRun) -> BenchResult:
    """Measure both pairs."""
    inlined, called = _measure_inlining(bench.full_or_short(200, 5))
    bench.report(
        f"libraries: {inlined * 1e6:.0f} µs an email with our inlining, {called * 1e6:.0f} µs with css_inline on each"
    )
    count = bench.full_or_short(10_000, 200)
    with bench.smtp_sink() as sink:
        before = sink.count()
        rounds = bench.full_or_short(ROUNDS, 1)
        ours, theirs = uvloop.run(_measure_smtp(bench.smtp_port, count, rounds))
        sink.expect(before, 2 * rounds * count)
    bench.report(
        f"libraries: {count / min(ours):,.0f} emails/s with our session, {count / min(theirs):,.0f} with aiosmtplib"
    )
    metrics = {"ratio_css": called / inlined, "ratio_smtp": min(theirs) / min(ours)}
    raw = {"css_us": [round(inlined * 1e6, 1), round(called * 1e6, 1)], "smtp_s": [rounded(ours), rounded(theirs)]}
    return BenchResult("libraries", metrics, raw)


def _measure_inlining(loops: int) -> tuple[float, float]:
    """Seconds per email: our inlining, css_inline on each."""
    names = [name for name in templates("email") if (FOLDER / "en" / name / "sample.json").exists()]
    contexts = [sample_context("email", name) for name in names]
    inlining, plain = create_environment(FOLDER), create_environment(FOLDER)
    plain.loader = FileSystemLoader(FOLDER)
    css = (FOLDER / "style.css").read_text(encoding="utf-8")
    inliner = css_inline.CSSInliner(
        keep_style_tags=True, inline_style_tags=False, load_remote_stylesheets=False, extra_css=css
    )
    ours = [compile_email(inlining, name, "en", "en") for name in names]
    theirs = [compile_email(plain, name, "en", "en") for name in names]

    def best(use: Callable[[EmailTemplate, dict[str, object]], object], compiled: Sequence[EmailTemplate]) -> float:
        times = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            for _ in range(loops):
                for template, context in zip(compiled, contexts, strict=True):
                    use(template, context)
            times.append((time.perf_counter() - begun) / loops / len(compiled))
        return min(times)

    return best(EmailTemplate.render, ours), best(lambda one, values: inliner.inline(one.render(values)[2]), theirs)


async def _measure_smtp(port: int, count: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each round: our session, aiosmtplib."""
    channel = EmailChannel(EmailSettings(connections=CONNECTIONS), SmtpServer("127.0.0.1", port, "none"), _content)
    now = datetime.now(UTC)
    prepared = [channel.prepare(Message(number, "bench", recipient(number), {}, now)) for number in range(count)]
    bodies = [one.body.removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n.") for one in prepared]
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(await _timed(_send_by_session(channel, prepared)))
        theirs.append(await _timed(_send_by_library(port, bodies)))
    return ours, theirs


def _content(message: Message) -> EmailContent:
    subject, text, html = render_email(
        "notice", "en", {**sample_context("email", "notice"), "heading": f"No. {message.id}"}
    )
    return EmailContent(subject, text, html)


async def _timed(work: Awaitable[None]) -> float:
    begun = time.perf_counter()
    await work
    return time.perf_counter() - begun


async def _send_by_session(channel: EmailChannel, prepared: Sequence[PreparedEmail]) -> None:
    waiting = iter(prepared)

    async def work() -> None:
        session = channel.session()

        async def drain() -> None:
            for one in waiting:
                await session.send(one)

        await asyncio.gather(*(drain() for _ in range(channel.messages_per_session)))
        await session.close()

    await asyncio.gather(*(work() for _ in range(channel.connections)))


async def _send_by_library(port: int, bodies: Sequence[bytes]) -> None:
    waiting = iter(enumerate(bodies))

    async def work() -> None:
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False) as client:
            for number, body in waiting:
                await client.sendmail("backline@localhost.localdomain", [recipient(number)], body)

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
