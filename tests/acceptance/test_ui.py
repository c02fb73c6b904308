"""Airflow's web UI in a real browser: the DAGs, their pages, and an email sent through the form."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from backline.messages import registry
from backline.settings import settings
from demo.context import DemoContext

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.stack,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium; on Debian: apt-get install chromium"),
]
TIMEOUT_MS = 60_000
FORM = ("To", "Subject", "Text", "HTML", "Cc", "Bcc", "Reply to", "Headers", "Attachments", "Request id", "Expires at")


@pytest.fixture(scope="module")
def page(stack_exports: dict[str, str]) -> Iterator[Page]:
    """A page with admin logged in."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking"]
        )
        page = browser.new_page(base_url=stack_exports["BACKLINE_URL"], viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(TIMEOUT_MS)
        expect.set_options(timeout=TIMEOUT_MS)
        page.goto("/")
        page.fill("input[name=username]", stack_exports["BACKLINE_USER"])
        page.fill("input[name=password]", stack_exports["BACKLINE_PASSWORD"])
        page.keyboard.press("Enter")
        page.get_by_role("link", name="Dags").first.wait_for()
        yield page
        browser.close()


def test_the_dag_list_shows_ours(page: Page) -> None:
    sends = [f"send_{kind.type_name}" for kind in registry.all_types()]
    dispatches = [f"dispatch_{lane.replace('.normal', '').replace('.', '_')}" for lane in settings().lanes]
    for pattern, dags in (("send_", sends), ("dispatch_", dispatches)):  # the list of all DAGs is longer than a page
        page.goto(f"/dags?name_pattern={pattern}")
        for dag in dags:
            expect(page.get_by_role("link", name=dag, exact=True)).to_be_visible()


def test_a_dag_shows_its_documentation(page: Page) -> None:
    page.goto("/dags/dispatch_email")
    page.get_by_role("button", name="Dag Docs").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name="Sends the messages of the lane email.normal")).to_be_visible()
    expect(dialog).to_contain_text("Stays warm")


def test_an_email_sent_through_the_form_arrives(page: Page, context: DemoContext) -> None:
    recipient = f"ann@{context.domain('form')}"
    page.goto("/dags/send_email")
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog")
    expect(form.get_by_text("Reply to", exact=True)).to_be_visible()
    text = form.inner_text()
    for label in FORM:
        assert f"\n{label}\n" in text, f"the form has no field {label!r}"
    assert "An email address" in text
    assert "This field is required" in text

    form.locator("#element_to").fill(recipient)
    form.locator("#element_subject").fill("Sent by hand")
    form.locator("#element_text").fill("Typed into Airflow's form.")
    form.get_by_role("button", name="Trigger", exact=True).click()

    (arrival,) = context.wait_for_emails(context.domain("form"), 1)
    email = context.mail.get_email(arrival.id)
    assert email.recipients == (recipient,)
    assert email.subject == "Sent by hand"
    assert "Typed into Airflow's form." in email.text
