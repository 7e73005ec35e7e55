"""The page in front of a real server."""

import os
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import CDPSession, FileChooser, Page, expect

from snapensemble.server_process import server_process
from tests.browser.proxy import proxied
from tests.browser.tab import PREDICT, best, drop, play, png, row, wait_until
from tests.factories import make_bundle

BROKEN = b"this is no picture"
PICTURES = {"one.png": png(1), "two.png": png(2), "three.png": BROKEN}
TOKEN = "a-token-that-is-long-enough"


def likeliest(server: str, data: bytes) -> str:
    reply = httpx.post(f"{server}/predict", content=data)
    return str(reply.json()["predictions"][0]["class"])


def test_three_pictures_in_one_drop_are_answered_and_the_broken_one_says_why(
    page: Page, server: str
) -> None:
    page.goto(server)
    expect(page.get_by_role("heading", name="insects")).to_be_visible()
    expect(page.get_by_text("3 members, 3 classes, right about 95.0 %")).to_be_visible()
    drop(page, PICTURES)
    expect(page.get_by_role("status")).to_have_text("2 of 3 pictures answered, 1 not")
    for name in ("one.png", "two.png"):
        expect(best(page, name)).to_have_text(likeliest(server, PICTURES[name]))
        expect(row(page, name).locator(".thumb canvas")).to_be_visible()
    said = httpx.post(f"{server}/predict", content=BROKEN).json()
    expect(row(page, "three.png").locator(".problem p")).to_have_text(
        f"{said['title']} – {said['detail']}"
    )


def test_the_members_and_the_prediction_set_are_those_of_the_answer(
    page: Page, server: str
) -> None:
    page.goto(server)
    drop(page, {"one.png": PICTURES["one.png"]})
    query: dict[str, str] = {"members": "true", "coverage": "0.9"}
    reply = httpx.post(f"{server}/predict", content=PICTURES["one.png"], params=query)
    (said,) = reply.json()["predictions"]
    line = row(page, "one.png")
    classes = ", ".join(said["prediction_set"]["classes"])
    expect(line.locator(".set")).to_have_text(f"90 % set: {classes}")
    line.locator("summary").click()
    names = ("ant", "bee", "cow")
    expected = []
    for member in said["members"]:
        probability = max(member["probabilities"])
        says = names[member["probabilities"].index(probability)]
        expected.append([member["name"], says, f"{100 * probability:.1f} %"])
    cells = line.locator(".members tbody tr")
    shown = [cells.nth(k).locator("td:visible").all_inner_texts() for k in range(cells.count())]
    assert [[text.replace("\xa0", " ") for text in texts] for texts in shown] == expected
    alike = sum(says == said["class"] for _, says, _ in expected)
    expect(line.locator("summary")).to_have_text(f"{alike} of 3 members say {said['class']}")


def test_a_bundle_of_one_member_without_sets_shows_neither(page: Page, tmp_path: Path) -> None:
    member = (make_bundle(tmp_path / "three") / "members" / "cycle-00.onnx").read_bytes()
    with server_process(make_bundle(tmp_path / "one", [member]), "--port", "0") as (_, url):
        page.goto(url)
        expect(page.get_by_text("1 member, 3 classes")).to_be_visible()
        drop(page, PICTURES)
        expect(best(page, "one.png")).to_be_visible()
        for name in (".members", ".set", "#options label", ".why"):
            assert page.locator(f"{name}:visible").count() == 0, name


@pytest.mark.parametrize("path", ["/digits", "/digits/", "/a/b/"])
def test_behind_a_proxy_the_page_works_under_any_path(page: Page, server: str, path: str) -> None:
    with proxied(server, path.rstrip("/")) as url:
        page.goto(url + path[len(path.rstrip("/")) :])
        drop(page, PICTURES)
        expect(page.get_by_role("status")).to_have_text("2 of 3 pictures answered, 1 not")
        page.get_by_text("From a terminal").click()
        expect(page.locator("#curl")).to_contain_text(f"{url}/predict")
        page.get_by_role("link", name="what is loaded").click()
        expect(page.locator("body")).to_contain_text('"insects"')
        assert page.url == f"{url}/model"


def test_a_token_is_asked_for_kept_in_memory_and_used(
    page: Page, bundle: Path, tmp_path: Path
) -> None:
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    flags = ("--port", "0", "--tokens-file", str(file))
    with server_process(bundle, *flags) as (_, url):
        page.goto(url)
        field = page.get_by_label("This server wants a token")
        drop(page, PICTURES)
        expect(page.locator(".problem p").first).to_contain_text("A token is needed")
        field.fill("not-the-right-token")
        field.press("Enter")
        field = page.get_by_label("The server does not accept that token")
        field.fill(TOKEN)
        field.press("Enter")
        expect(page.get_by_role("status")).to_have_text("2 of 3 pictures answered, 1 not")
        expect(field).to_be_hidden()
        kept = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
        assert kept == [0, 0, ""]


def test_a_phone_offers_its_camera_and_a_desk_does_not(
    page: Page, phone: Page, server: str
) -> None:
    for tab, is_visible in ((phone, True), (page, False)):
        tab.goto(server)
        camera = tab.get_by_label("Take a photo")
        assert camera.get_attribute("capture") == "environment"
        assert camera.get_attribute("accept") == "image/*"
        assert camera.evaluate("each => each.checkVisibility()") is is_visible
    phone.get_by_label("Take a photo").set_input_files(
        {"name": "photo.png", "mimeType": "image/png", "buffer": PICTURES["one.png"]}
    )
    expect(best(phone, "photo.png")).to_be_visible()


def send_drag(session: CDPSession, kind: str, files: list[str]) -> None:
    data = {"items": [], "files": files, "dragOperationsMask": 1}
    session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})


def test_a_dropped_folder_gives_its_pictures_but_no_hidden_files(
    page: Page, server: str, tmp_path: Path
) -> None:
    (tmp_path / "trip" / "day").mkdir(parents=True)
    for name in ("trip/a.png", "trip/day/b.png", "trip/.DS_Store"):
        (tmp_path / name).write_bytes(PICTURES["one.png"])
    page.goto(server)
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        send_drag(session, kind, [str(tmp_path / "trip")])
    expect(page.get_by_role("status")).to_have_text("2 of 2 pictures answered")
    assert sorted(page.locator(".file span").all_inner_texts()) == ["trip/a.png", "trip/day/b.png"]


def test_a_file_that_is_gone_is_not_taken_for_a_server_that_is_gone(
    page: Page, server: str, tmp_path: Path
) -> None:
    file = tmp_path / "moved.png"
    file.write_bytes(BROKEN)
    page.goto(server)
    page.locator("#files").set_input_files(file)
    expect(row(page, "moved.png").locator(".problem p")).to_contain_text("cannot be read")
    os.remove(file)
    row(page, "moved.png").get_by_role("button", name="Ask again").click()
    expect(row(page, "moved.png").locator(".problem p")).to_contain_text("can no longer be read")


def test_the_page_can_be_used_by_keyboard_alone(page: Page, server: str, tmp_path: Path) -> None:
    choosers: list[FileChooser] = []  # listened for early, or the key overtakes the listener
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.goto(server)
    expect(page.get_by_role("heading", name="insects")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator("#files")).to_be_focused()
    page.keyboard.press("Enter")
    wait_until(page, lambda: bool(choosers))
    assert choosers[0].is_multiple()
    (tmp_path / "one.png").write_bytes(PICTURES["one.png"])
    choosers[0].set_files(tmp_path / "one.png")
    expect(best(page, "one.png")).to_be_visible()
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        focused = page.evaluate_handle("document.activeElement").as_element()
        assert focused is not None
        reached.append(focused.get_attribute("aria-label") or focused.inner_text() or "")
        if "members say" in reached[-1]:
            page.keyboard.press("Enter")
            expect(page.locator(".members table")).to_be_visible()
        if reached[-1] == "Remove one.png":
            outline = focused.evaluate("each => getComputedStyle(each).outlineStyle")
            assert outline == "solid"
    for name in ("Download CSV", "Clear", "Remove one.png", "From a terminal"):
        assert name in reached, reached
    page.get_by_label("Remove one.png").press("Enter")
    expect(page.locator("#answers")).to_be_hidden()


def test_nothing_large_and_no_object_url_stays_behind(page: Page, server: str) -> None:
    """A picture in the document would be decoded in full as long as it is there."""
    page.add_init_script(
        """window.urls = new Set();
        const make = URL.createObjectURL, free = URL.revokeObjectURL;
        URL.createObjectURL = what => { const url = make(what); urls.add(url); return url; };
        URL.revokeObjectURL = url => { urls.delete(url); free(url); };"""
    )
    page.goto(server)
    large = png(3, width=900, height=1200)
    drop(page, {f"{k}.png": large for k in range(9)})
    expect(page.get_by_role("status")).to_have_text("9 of 9 pictures answered")
    expect(page.locator(".thumb canvas").first).to_be_visible()
    with page.expect_download():
        page.get_by_role("button", name="Download CSV").click()
    sizes = page.evaluate("[...document.querySelectorAll('canvas')].map(c => c.width * c.height)")
    assert sizes and max(sizes) <= (2 * 96) ** 2
    assert page.locator("img").count() == 0
    assert page.evaluate("new Promise(done => setTimeout(() => done(urls.size)))") == 0


def test_only_pictures_near_the_window_are_drawn(page: Page, server: str) -> None:
    page.goto(server)
    drop(page, {f"{k}.png": png(k) for k in range(40)})
    expect(page.get_by_role("status")).to_have_text("40 of 40 pictures answered")
    expect(page.locator(".thumb canvas").first).to_be_visible()
    assert page.locator(".thumb canvas").count() < 30
    page.locator("li").last.scroll_into_view_if_needed()
    expect(page.locator("li").last.locator(".thumb canvas")).to_be_visible()


def test_what_the_bundle_cannot_do_is_not_offered(page: Page, server: str) -> None:
    play(page, calibration=None)
    with page.expect_request(PREDICT) as asked:
        page.goto(server)
        drop(page, {"one.png": PICTURES["one.png"]})
    assert "coverage" not in asked.value.url and "explain" not in asked.value.url
    expect(best(page, "one.png")).to_be_visible()
    assert page.locator("#options label:visible, .why:visible").count() == 0
