# ruff: noqa: INP001
"""Takes the screenshots of docs/img from a running stack.

./backline up && eval "$(./backline env)" && .venv/bin/python docs/take_screenshots.py [DEMO_OUTPUT]

DEMO_OUTPUT is a file with the output of `./backline demo`; without it the demo's screenshot is not changed.
"""

from __future__ import annotations

import html
import os
import shutil
import sys
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from backline.errors import Misconfigured
from backline.messages import registry
from backline.messages.base import EmailMessage

IMAGE_FOLDER = Path(__file__).parent / "img"
VIEWPORT = ViewportSize(width=1360, height=850)
EMAIL_SCREENSHOTS: tuple[tuple[str, str, str, int, Literal["light", "dark"]], ...] = (
    ("mail-order", "order_confirmation", "en", 720, "light"),
    ("mail-phone", "order_shipped", "de", 375, "dark"),
)
TERMINAL_HTML = """<!doctype html><meta charset="utf-8"><style>body{{margin:0;background:#111827;color:#e5e7eb}}
pre{{font:13px/1.5 "DejaVu Sans Mono",monospace;padding:20px;margin:0;width:max-content}}
.ok{{color:#4ade80}}.bad{{color:#f87171}}</style><pre>{text}</pre>"""


def main() -> None:
    """Take all screenshots; Misconfigured without a browser."""
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        raise Misconfigured("no chromium on the PATH; on Debian: apt-get install chromium")
    IMAGE_FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-background-networking"]
        )
        page = browser.new_page(base_url=os.environ["BACKLINE_URL"], viewport=VIEWPORT)
        page.set_default_timeout(60_000)
        log_in(page)
        screenshot_airflow(page)
        page.goto(f"{os.environ['BACKLINE_MAIL_URL']}/?subject=Welcome")
        page.locator("a[href^='/messages/']").first.click()
        page.locator("iframe").wait_for()
        screenshot(page, "mail")
        screenshot_emails(browser)
        if len(sys.argv) > 1:
            page.set_content(TERMINAL_HTML.format(text=colorize(Path(sys.argv[1]).read_text(encoding="utf-8"))))
            page.locator("pre").screenshot(path=IMAGE_FOLDER / "demo.png")
        browser.close()


def screenshot_emails(browser: Browser) -> None:
    """Emails as recipients see them: on a desktop, and on a phone in German and in dark mode."""
    for name, type_name, language, width, scheme in EMAIL_SCREENSHOTS:
        kind = registry.get(type_name)
        message = kind.parse({**kind.sample(), "language": language})
        page = browser.new_page(viewport=ViewportSize(width=width, height=400), color_scheme=scheme)
        page.set_content(str(message.email().html) if isinstance(message, EmailMessage) else "")
        page.screenshot(path=IMAGE_FOLDER / f"{name}.png", full_page=True)
        page.close()


def log_in(page: Page) -> None:
    """Log in as the stack's admin."""
    page.goto("/")
    page.fill("input[name=username]", os.environ["BACKLINE_USER"])
    page.fill("input[name=password]", os.environ["BACKLINE_PASSWORD"])
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Dags").first.wait_for()


def screenshot_airflow(page: Page) -> None:
    """The list of DAGs, a DAG's documentation, the form of a send_* DAG."""
    page.goto("/dags")
    page.get_by_role("link", name="dispatch_email", exact=True).wait_for()
    screenshot(page, "dags")
    page.goto("/dags/dispatch_email")
    page.get_by_role("button", name="Dag Docs").click()
    page.get_by_role("dialog").get_by_role("heading").first.wait_for()
    screenshot(page, "dag-doc")
    page.goto("/dags/send_email")
    page.get_by_role("button", name="Trigger").first.click()
    page.locator("#element_to").fill("Ann <ann@example.com>")
    page.locator("#element_subject").fill("Your order 1042")
    page.locator("#element_text").fill("It is on its way.")
    screenshot(page, "send-form")


def screenshot(page: Page, name: str) -> None:
    """One screenshot, once the page is idle."""
    page.wait_for_load_state("networkidle")
    page.screenshot(path=IMAGE_FOLDER / f"{name}.png", animations="disabled")


def colorize(text: str) -> str:
    """The demo's table and last line as a terminal shows them."""
    lines = []
    table = [line for line in text.splitlines() if line.startswith((" ", "demo:")) or line[:2].isdigit()]
    for line in html.escape("\n".join(table), quote=False).splitlines():
        shown = line.replace("  ok  ", '  <span class="ok">ok</span>  ').replace(
            "  FAILED", '  <span class="bad">FAILED</span>'
        )
        lines.append(shown)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
