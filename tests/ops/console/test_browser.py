"""The console as an operator uses it: in a browser, with rq-dashboard's own buttons."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from playwright.sync_api import Browser, Page, expect
from werkzeug.serving import make_server

from bridge.config import Config
from ops.console.app import create_console
from tests.browser import chromium
from tests.installation import settings
from tests.ops.console import sample
from tests.ops.console.visitor import PASSWORD
from workers.store.engine import Store

#: What a job's texts may try; none of it may run.
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@contextmanager
def served(connection: redis.Redis, store: Store) -> Iterator[str]:
    """The address of a console under a real server."""
    app = create_console(Config.model_validate(settings(console={"users": {"admin": PASSWORD}})), connection, store)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails the test where its scripts complain or anything is fetched from elsewhere."""
    complaints: list[str] = []
    context = browser.new_context()
    context.set_default_timeout(10_000)
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if "Content Security Policy" in said.text else None)
    page.on("request", lambda sent: None if "//127.0.0.1:" in sent.url else complaints.append(sent.url))
    yield page
    context.close()
    assert complaints == []


def log_in(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_label("Name").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Latest events")).to_be_visible()


def tile(page: Page, name: str) -> str:
    return page.locator(".tile", has=page.get_by_text(name, exact=True)).locator("dd").first.inner_text()


def test_log_in_requeue_and_log_out(page: Page, connection: redis.Redis, store: Store) -> None:
    sample.accept(connection, 3)
    sample.fail(connection, 2, EVIL)
    with served(connection, store) as url:
        log_in(page, url)
        assert tile(page, "Failed") == "2"
        page.locator("#user_add_org-failed").click()
        rows = page.locator("tr[data-role=job]")
        expect(rows).to_have_count(2)
        expect(rows.first).to_contain_text("<img src=x onerror")
        rows.first.get_by_text("Requeue", exact=True).click()
        expect(rows).to_have_count(1)
        expect(page.locator("#told")).to_have_text("Done: 1.")
        page.get_by_text("Requeue All").click()
        page.get_by_role("button", name="Yes").click()
        expect(page.get_by_text("No jobs.")).to_be_visible()
        assert (connection.llen("rq:queue:user_add_org"), connection.zcard("rq:failed:user_add_org")) == (3, 0)
        page.get_by_role("link", name="Overview").click()
        expect(page.locator("#user_add_org-queued")).to_have_text("3")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Password")).to_be_visible()
        page.goto(f"{url}/rq/")
        expect(page.get_by_label("Password")).to_be_visible()


def test_what_was_put_off_is_requeued_from_its_page(page: Page, connection: redis.Redis, store: Store) -> None:
    sample.accept(connection, 2)
    claims, taken = sample.claim(connection, 2)
    for claim in taken:
        claims.put_off(claim, 300, 1)
    with served(connection, store) as url:
        log_in(page, url)
        page.locator("#user_add_org-scheduled").click()
        page.locator("tr[data-role=job]").first.get_by_text("Requeue", exact=True).click()
        expect(page.locator("#told")).to_have_text("Done: 1.")
        page.goto(f"{url}/rq/0/view/job/{taken[1].job_id}")
        page.get_by_role("button", name="Requeue").click()
        expect(page.locator("#job-data p", has_text="Status")).to_contain_text("queued")
        expect(page.get_by_role("button", name="Requeue")).to_be_hidden()
        assert connection.llen("rq:queue:user_add_org") == 2


def test_a_jobs_texts_run_nothing(page: Page, connection: redis.Redis, store: Store) -> None:
    sample.accept(connection, 1)
    (job_id,) = sample.fail(connection, 1, EVIL)
    connection.hset(f"rq:job:{job_id}", "description", EVIL)
    with served(connection, store) as url:
        log_in(page, url)
        page.goto(f"{url}/rq/0/view/job/{job_id}")
        expect(page.locator(".exc_info")).to_contain_text("<img src=x onerror")
        expect(page.locator(".description-scroll")).to_contain_text("<img src=x onerror")
        assert page.locator("#job-data img").count() == 0
        assert page.title() == "Queues – dingbridge"


def test_a_refusal_is_told(page: Page, connection: redis.Redis, store: Store) -> None:
    sample.accept(connection, 1)
    sample.fail(connection, 1, "no permission")
    with served(connection, store) as url:
        log_in(page, url)
        page.goto(f"{url}/rq/0/view/jobs/user_add_org/failed/8/asc/1")
        row = page.locator("tr[data-role=job]")
        expect(row).to_have_count(1)
        page.locator("label", has=page.locator("#autorefresh-switch")).click()
        connection.flushall()
        row.get_by_text("Requeue", exact=True).click()
        expect(page.locator("#told")).to_contain_text("there is no such job any more")


def test_the_front_page_refreshes_itself_and_says_when_it_no_longer_does(
    page: Page, connection: redis.Redis, store: Store
) -> None:
    with served(connection, store) as url:
        log_in(page, url)
        expect(page.get_by_text("No event yet.")).to_be_visible()
        made = sample.accept(connection, 7)
        sample.record(store, made[:1])
        expect(page.locator("#user_add_org-queued")).to_have_text("7")
        expect(page.locator("#e-event-0")).to_be_visible()
        page.locator("#e-event-0").click()
        expect(page.get_by_role("heading", name="What it changed")).to_be_visible()
        page.go_back()
        expect(page.locator("#e-event-0")).to_be_visible()
        expect(page.locator("#gone")).to_be_hidden()
    expect(page.locator("#gone")).to_be_visible()


def test_a_session_that_ended_leads_to_the_form(page: Page, connection: redis.Redis, store: Store) -> None:
    with served(connection, store) as url:
        for path in ("/", "/rq/"):
            log_in(page, url)
            page.goto(url + path)
            page.context.clear_cookies()
            expect(page.get_by_label("Password")).to_be_visible()
