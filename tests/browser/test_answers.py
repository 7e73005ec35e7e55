"""When answers come, and what the page makes of those that are none. The test plays the server."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from snapensemble.server_process import server_process
from tests.browser.proxy import proxied
from tests.browser.tab import (
    OTHER,
    PREDICT,
    Held,
    answer,
    best,
    drop,
    play,
    png,
    problem,
    row,
    wait_until,
)

NAMES = ("one.png", "two.png", "three.png")
PICTURES = dict.fromkeys(NAMES, png())
HTML: dict[str, Any] = {"content_type": "text/html", "body": "<html>Please log in</html>"}
BUSY = problem("overloaded", "The server has more work than it can do in time", "come back")


def test_answers_show_as_they_come_in_the_order_of_the_drop(page: Page, server: str) -> None:
    play(page)
    held = Held(page, PREDICT)
    page.goto(server)
    drop(page, PICTURES)
    routes = [held.next() for _ in NAMES]
    for name, route in reversed(list(zip(NAMES, routes, strict=True))):
        expect(row(page, name).locator(".state").first).to_have_text("Asking…")
        route.fulfill(json=answer("bee"))
        expect(best(page, name)).to_have_text("bee")
    assert page.locator(".file span").all_inner_texts() == list(NAMES)


def test_four_are_asked_at_once_and_the_next_when_one_has_come(page: Page, server: str) -> None:
    play(page)
    held = Held(page, PREDICT)
    page.goto(server)
    drop(page, {f"{k}.png": png() for k in range(6)})
    wait_until(page, lambda: held.seen == 4)
    expect(page.get_by_text("Waiting…")).to_have_count(2)
    assert held.waiting == 4
    held.next().fulfill(json=answer("ant"))
    expect(page.get_by_text("Waiting…")).to_have_count(1)
    wait_until(page, lambda: held.seen == 5)
    page.get_by_role("button", name="Clear").click()  # those under way give their places back
    drop(page, {"later.png": png()})
    wait_until(page, lambda: held.seen == 6)


def test_a_late_answer_to_an_older_question_changes_nothing(page: Page, server: str) -> None:
    play(page)
    held = Held(page, PREDICT)
    page.goto(server)
    drop(page, {"one.png": png()})
    older = held.next()
    page.locator("#coverage").select_option("0.95")
    held.next().fulfill(json=answer("bee"))
    expect(best(page, "one.png")).to_have_text("bee")
    older.fulfill(json=answer("cow"))
    page.evaluate("fetch('model')")  # takes the same way, and is later
    expect(best(page, "one.png")).to_have_text("bee")


def test_an_older_answer_that_waits_to_hear_of_its_model_changes_nothing(
    page: Page, server: str
) -> None:
    """It has come whole, so ending its request does not stop it."""
    play(page)
    held = Held(page, PREDICT)
    page.goto(server)
    expect(page.get_by_role("heading", name="insects")).to_be_visible()
    drop(page, {"one.png": png()})
    page.unroute("**/model")
    models = Held(page, "**/model")
    held.next().fulfill(json=answer("cow", version=OTHER))
    model = models.next()
    page.locator("#coverage").select_option("0.95")
    held.next().fulfill(json=answer("bee"))
    expect(best(page, "one.png")).to_have_text("bee")
    play(page)
    model.fallback()
    expect(page.get_by_role("heading", name="insects")).to_be_visible()
    expect(best(page, "one.png")).to_have_text("bee")


def stop_clock(page: Page, server: str) -> None:
    """Open the page where no time passes by itself."""
    page.clock.install(time=0)
    page.goto(server)
    page.clock.pause_at(3_600)


def test_all_pictures_wait_as_long_as_a_busy_server_asks(page: Page, server: str) -> None:
    play(page)
    held = Held(page, PREDICT)
    stop_clock(page, server)
    drop(page, {f"{k}.png": png() for k in range(6)})
    busy, *others = (held.next() for _ in range(4))
    busy.fulfill(status=503, headers={"Retry-After": "7"}, body=BUSY)
    expect(page.get_by_text("asking again in 7 s")).to_be_visible()  # whichever came first
    for route in others:
        route.fulfill(json=answer("ant"))
    expect(page.get_by_role("status")).to_have_text("3 of 6 pictures answered")
    page.clock.run_for(6_900)
    assert held.waiting == 0
    page.clock.run_for(200)
    for _ in range(3):
        held.next().fulfill(json=answer("bee"))
    expect(page.get_by_role("status")).to_have_text("6 of 6 pictures answered")


def test_a_server_that_stays_busy_is_asked_six_times(page: Page, server: str) -> None:
    play(page)
    held = Held(page, PREDICT)
    stop_clock(page, server)
    drop(page, {"one.png": png()})
    for tries in range(1, 7):
        held.next().fulfill(status=503, headers={"Retry-After": "1"}, body=BUSY)
        if tries < 6:
            expect(page.get_by_text("asking again in 1 s")).to_be_visible()
            page.clock.run_for(1_000)
    expect(page.locator(".problem p")).to_contain_text("more work than it can do in time")
    page.clock.run_for(60_000)
    assert (held.waiting, held.seen) == (0, 6)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({"status": 502, **HTML}, "answered 502 Bad Gateway with text/html"),
        ({"status": 503, **HTML}, "answered 503 Service Unavailable with text/html"),
        ({"status": 200, **HTML}, "answered 200 OK with text/html"),
        ({"status": 413, "body": ""}, "answered 413"),
        ({"status": 500, "body": "null", "content_type": "application/json"}, "answered 500"),
        ({"status": 500, "body": '{"ok":', "content_type": "application/json"}, "answered 500"),
    ],
)
def test_an_answer_that_is_not_the_servers_is_called_so(
    page: Page, server: str, reply: dict[str, Any], message: str
) -> None:
    play(page)
    page.route(PREDICT, lambda route: route.fulfill(**reply))
    page.goto(server)
    drop(page, {"one.png": png()})
    expect(page.locator(".problem p")).to_contain_text("between this page and the server")
    expect(page.locator(".problem p")).to_contain_text(message)
    expect(page.get_by_role("status")).to_have_text("0 of 1 picture answered, 1 not")


def test_a_server_that_is_gone_is_missed_and_asked_again(page: Page, bundle: Path) -> None:
    with server_process(bundle, "--port", "0") as (_, url):
        page.goto(url)
        drop(page, {"one.png": png()})
        expect(best(page, "one.png")).to_be_visible()
    drop(page, {"two.png": png(), "three.png": png()})
    expect(page.get_by_role("status")).to_have_text("1 of 3 pictures answered, 2 not")
    for name in ("two.png", "three.png"):
        expect(row(page, name).locator(".problem p")).to_contain_text("cannot be reached")
    with server_process(bundle, "--port", url.rpartition(":")[2]):
        page.locator("#again").click()
        expect(page.get_by_role("status")).to_have_text("3 of 3 pictures answered")
        page.goto("about:blank")  # the server need not wait for a connection that is kept open


def test_a_proxy_that_has_lost_its_server_is_named(page: Page, bundle: Path) -> None:
    with contextlib.ExitStack() as stack:
        _, upstream = stack.enter_context(server_process(bundle, "--port", "0"))
        with proxied(upstream, "/digits") as url:
            page.goto(url)
            drop(page, {"one.png": png()})
            expect(best(page, "one.png")).to_be_visible()
            stack.close()
            drop(page, {"two.png": png()})
            expect(row(page, "two.png").locator(".problem p")).to_contain_text(
                "answered 502 Bad Gateway with text/html"
            )
            expect(best(page, "one.png")).to_be_visible()


def test_a_page_whose_server_went_before_it_had_asked_says_so_and_tries_again(
    page: Page, server: str
) -> None:
    def refuse(route: Route) -> None:
        route.fulfill(status=502, **HTML)

    page.route("**/model", refuse)
    page.goto(server)
    expect(page.locator("#gone")).to_contain_text("answered 502 Bad Gateway")
    page.unroute("**/model", refuse)
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="insects")).to_be_visible()
    expect(page.locator("#gone")).to_be_hidden()


def test_another_model_that_has_come_since_is_shown(page: Page, server: str) -> None:
    play(page)
    page.goto(server)
    expect(page.get_by_text("2 members")).to_be_visible()
    play(page, name="birds", version=OTHER, members=[{"name": "cycle-07"}])
    page.route(PREDICT, lambda route: route.fulfill(json=answer("bee", version=OTHER)))
    drop(page, {"one.png": png()})
    expect(page.get_by_text("1 member,")).to_be_visible()
    expect(page.get_by_role("heading", name="birds")).to_be_visible()
