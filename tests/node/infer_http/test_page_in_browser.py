"""The page as people see it: in Chromium, on nodes whose run the test tells."""

from __future__ import annotations

import io
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from gradmq.infer.run_watch import RunWatch
from gradmq.serve import TensorModel, TensorSpec
from gradmq.view import words

browsers = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = browsers.expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")

TOKEN = "secret-token-of-32-characters-long"

#: A page that does not show it by then does not show it; loading torch elsewhere takes cores.
expect.set_options(timeout=15_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Its sandbox wants a user namespace, which root and most containers do not have.
    arguments = ["--no-sandbox"]
    with (
        browsers.sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=arguments) as chromium,
    ):
        yield chromium
        started = psutil.Process().children(recursive=True)
    # It does not wait for its own children, and they take long where cores are few.
    psutil.wait_procs(started, timeout=30)


OpenPage = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any) -> Iterator[OpenPage]:
    """Opens a node's page; only that node may be asked, and only the errors named may be logged."""
    nodes: set[str] = set()
    asked: set[str] = set()
    errors: list[str] = []
    expected: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900})

    def open_(node: Any, *expected_errors: str) -> Any:
        nodes.add(node.url)
        expected.extend(expected_errors)
        page = context.new_page()
        page.on("request", lambda request: asked.add("/".join(request.url.split("/")[:3])))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(node.url)
        return page

    with context:
        yield open_
    assert asked == nodes
    assert [error for error in errors if not any(text in error for text in expected)] == []


def status(release: int = 0, **fields: Any) -> dict[str, Any]:
    whole = {"run": "letters-1", "phase": "open", "waiting_for": "", "release": {"number": release}}
    whole |= {"shards": [shard(30 * release)], "workers": [worker()], "infer": [], "followers": []}
    return {**whole, "evaluations": [], **fields}


def shard(version: int) -> dict[str, Any]:
    row = {"index": 0, "incarnation": 1, "version": version, "live": True, "lost_updates": 0}
    return {**row, "pushed_bytes": 0, "waiting_for": "", "waiting_s": 0.0, "silent_s": 0.0}


def worker(name: str = "worker-1", **fields: Any) -> dict[str, Any]:
    row = {"name": name, "live": True, "lost": False, "applied": 1234, "samples": 9, "share": 1.0}
    row |= {"staleness": {"median": 1, "max": 2, "histogram": [[0, 20], [1, 70], [2, 10]]}}
    row |= {"rejected": {"stale": 3}, "samples_per_s": 51.3, "skipped_nonfinite": 0}
    row |= {"waiting_for": "", "waiting_s": 0.0, "silent_s": 0.0}
    return {**row, "loss": 2.5, **fields}


def figure(page: Any, name: str) -> Any:
    """The value under a title in the strip of figures."""
    return (
        page.locator("#figures > div")
        .filter(has=page.get_by_text(name, exact=True))
        .locator("dd")
        .first
    )


def tell(watch: RunWatch, release: int, **fields: Any) -> None:
    watch.heard(status(release, **fields), time.monotonic())


def test_numbers_appear_and_move_and_foreign_text_stays_text(
    serve_node: Any, text_spec: Any, open_page: OpenPage
) -> None:
    watch = RunWatch(higher_is_better=False)
    node = serve_node("letters", text_spec, watch=watch, keep=3)
    node.offer(1, torch.nn.Identity())
    tell(watch, 0, evaluations=[{"release": 0, "bits": 8.0}])
    name = "<img src=x onerror=alert(1)>"
    tell(watch, 1, workers=[worker(name, waiting_for="shard 0", waiting_s=5.0)])
    page = open_page(node)
    expect(page.locator("h1")).to_have_text("letters")
    expect(figure(page, "release")).to_have_text("1")
    expect(figure(page, "loss")).to_have_text("2.500")
    expect(figure(page, "bits")).to_have_text("8.000")
    expect(page.locator("#workers tbody th")).to_have_text(name)
    expect(page.locator("#workers .note")).to_contain_text(
        re.compile(r"waits [\d.]+ s for shard 0")
    )
    expect(page.locator("#workers .note")).to_contain_text("rejected: 3 stale")
    expect(page.locator("#staleness tr").nth(1)).to_have_text("170 %70")
    expect(page.locator("#charts canvas")).to_have_count(2)
    node.offer(1203, torch.nn.Identity())
    tell(watch, 1203, workers=[worker(loss=1.25)], evaluations=[{"release": 1000, "bits": 4.0}])
    expect(figure(page, "release")).to_have_text("1,203")
    expect(figure(page, "bits")).to_have_text("4.000")
    expect(page.locator("#charts figcaption").first).to_contain_text("first 2.500")
    expect(page.locator("#serving tbody tr")).to_have_count(2)
    expect(page.locator("#serving tbody tr").first).to_contain_text("1,203◂ what answers")
    expect(page.get_by_role("status").first).to_have_text("training")


def test_a_broker_that_falls_silent_is_named_and_so_is_its_return(
    serve_node: Any, text_spec: Any, open_page: OpenPage
) -> None:
    watch = RunWatch()
    node = serve_node("letters", text_spec, watch=watch)
    node.offer(118, torch.nn.Identity(), age_s=34.0)
    watch.heard(status(118), time.monotonic() - 34.0)
    page = open_page(node)
    words_ = r"▲the broker is away for 3\d s; serving release 118, 3\d s old"
    expect(page.locator("#state")).to_have_text(re.compile(words_))
    tell(watch, 119)
    expect(page.locator("#said")).to_have_text("training")


def test_a_node_that_stops_is_missed_in_words_and_found_again(
    serve_node: Any, text_spec: Any, open_page: OpenPage, free_port: int
) -> None:
    node = serve_node("letters", text_spec, port=free_port)
    node.offer(12, torch.nn.Identity())
    page = open_page(node, "net::ERR_CONNECTION_REFUSED")
    expect(page.locator("#said")).to_have_text("serving what was saved")
    expect(page.locator("#no-run")).to_be_visible()
    expect(page.locator("#curves")).to_be_hidden()
    node.stop.set()
    words_ = r"▲the node has stopped, no answer for [\d.]+ s; it served release 12; asking again"
    expect(page.locator("#state")).to_have_text(re.compile(words_))
    again = serve_node("letters", text_spec, port=free_port)
    again.offer(13, torch.nn.Identity())
    expect(figure(page, "release")).to_have_text("13")
    expect(page.locator("#said")).to_have_text("serving what was saved")


def test_two_releases_complete_one_prompt_side_by_side(
    serve_node: Any, text_spec: Any, open_page: OpenPage
) -> None:
    node = serve_node("letters", text_spec, keep=2)
    node.offer(11, _letter_after(2))
    node.offer(12, _letter_after(1))
    page = open_page(node)
    page.get_by_label("Prompt").fill("a")
    page.get_by_label("tokens").fill("5")
    page.get_by_role("button", name="Complete").click()
    now, older = page.locator(".answer .text").all()
    expect(now).to_have_text("abcdef")
    expect(older).to_have_text("acegik")
    expect(page.locator(".by").first).to_contain_text("release 12, ")
    expect(page.locator(".by").last).to_contain_text("release 11, ")
    page.get_by_label("Which older release").select_option("11")


def brightness(content: bytes) -> dict[str, Any]:
    """One input, from 0 for black to 1 for white, of a picture file."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
        mean = np.asarray(picture.convert("L"), np.float32).mean() / 255
    return {"brightness": np.array([mean], np.float32)}


DARK_OR_BRIGHT = TensorModel(
    inputs=(TensorSpec("brightness", "FP32", (-1,)),),
    outputs=(TensorSpec("scores", "FP32", (-1, 2)),),
    media={"image/png": brightness},
    class_names=("dark", "bright"),
)


def test_a_drawing_moves_the_bars_and_so_does_a_new_release(
    serve_node: Any, open_page: OpenPage
) -> None:
    node = serve_node("pictures", DARK_OR_BRIGHT)
    node.offer(1, lambda bright: torch.stack([1 - bright, bright], dim=1))
    page = open_page(node)
    said, bars = page.locator(".seen > p"), page.locator(".classes tr")
    paper = page.get_by_role("img").bounding_box()
    assert paper is not None
    left, middle = paper["x"] + 20, paper["y"] + paper["height"] / 2
    page.mouse.move(left, middle)
    page.mouse.down()
    page.mouse.move(left + 200, middle, steps=4)
    page.mouse.up()
    expect(said).to_have_text("release 1 sees bright")
    expect(bars).to_have_text([re.compile(r"dark[1-9] %"), re.compile(r"bright9\d %")])
    node.offer(2, lambda bright: torch.stack([bright, 1 - bright], dim=1))
    expect(said).to_have_text("release 2 sees dark")
    black = io.BytesIO()
    Image.new("L", (30, 20)).save(black, "PNG")
    file = {"name": "black.png", "mimeType": "image/png", "buffer": black.getvalue()}
    page.get_by_label("Choose a picture").set_input_files([file])
    expect(bars).to_have_text(["dark0 %", "bright100 %"])
    expect(bars.last.locator(".bar span")).to_have_attribute("style", "width: 100%;")
    page.get_by_role("button", name="Clear").click()
    expect(bars).to_have_count(0)


def test_any_tensor_model_has_a_request_to_edit(
    serve_node: Any, sums_spec: Any, open_page: OpenPage
) -> None:
    node = serve_node("sums", sums_spec)
    node.offer(3, lambda rows: (rows.sum(dim=1), rows * 2))
    page = open_page(node, "400 (Bad Request)")
    request = page.get_by_label("POST /v2/models/sums/infer")
    expect(request).to_have_value(re.compile(r'"name":"rows","datatype":"FP32","shape":\[1,3\]'))
    request.fill(request.input_value().replace("[0,0,0]", "[1,2,4]"))
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_label("The answer")).to_contain_text('"name":"sum"')
    expect(page.get_by_label("The answer")).to_contain_text('"data":[7]')
    request.fill("no JSON")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#ask .by")).to_contain_text("the body is not JSON")


def test_a_phone_needs_no_sideways_scrolling_and_a_keyboard_is_enough(
    serve_node: Any, text_spec: Any, open_page: OpenPage
) -> None:
    watch = RunWatch()
    node = serve_node("letters", text_spec, watch=watch, keep=3)
    for release in (11, 12):
        node.offer(release, _letter_after(1))
        tell(watch, release, workers=[worker(f"a-worker-with-a-long-name-{i}") for i in range(3)])
    page = open_page(node)
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    expect(page.locator("#charts canvas").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the model")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Prompt")).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.type("a")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".by").first).to_contain_text("release 12")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    paper, ink = (
        page.evaluate(f"getComputedStyle(document.body).{name}")
        for name in ("backgroundColor", "color")
    )
    assert _luminance(paper) < 0.05 < 0.7 < _luminance(ink)


def test_a_node_with_a_token_is_asked_with_the_one_that_is_typed(
    serve_node: Any, text_spec: Any, open_page: OpenPage
) -> None:
    node = serve_node("letters", text_spec, token=TOKEN)
    node.offer(12, torch.nn.Identity())
    page = open_page(node, "401 (Unauthorized)")
    field = page.get_by_label("This node asks for a token")
    expect(page.locator("#state")).to_have_text("○waiting for the node's token")
    field.fill("another-token")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("That is not this node's token.")
    field.fill(TOKEN)
    field.press("Enter")
    expect(figure(page, "release")).to_have_text("12")
    expect(page.locator("h1")).to_have_text("letters")
    assert page.evaluate("[document.cookie, Object.keys(localStorage).length]") == ["", 0]


def test_numbers_are_written_as_on_the_terminal(sums_node: Any, open_page: OpenPage) -> None:
    values = [0.0, 0.004, 0.5, 0.99951, 1.0, 2.34567, 9.949, 9.95, 12.3456, 59.6, 99.94, 119.4]
    values += [119.6, 123.456, 999.96, 3599.7, 7200.0, 9_999_999.0, 12_345_678.9, 1e-5, 1.5e12]
    page = open_page(sums_node)
    shares = [0.0, 0.004, 0.006, 0.5, 0.666, 0.999, 1.0]
    counts = [0, 7, 1234, 9_999_999, 10_000_000, 123_456_789_012]
    for name, given in (
        ("rate", values),
        ("reading", values),
        ("duration", values),
        ("percent", shares),
        ("count", counts),
    ):
        script = f"async (given) => given.map((await import('/page/words.js')).{name})"
        assert page.evaluate(script, given) == [getattr(words, name)(x) for x in given], name
    reasons = {"stale": 3, "norm": 1200, "future": 0, "lost_base": 3}
    script = "async (reasons) => (await import('/page/words.js')).reasons(reasons)"
    assert page.evaluate(script, reasons) == words.reasons(reasons)


def _letter_after(steps: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """All but certain of the letter so many steps on."""
    return lambda ids: torch.nn.functional.one_hot((ids + steps) % 256, 256).float() * 1000


def _luminance(color: str) -> float:
    """Of ``rgb(r, g, b)``: 0 black, 1 white."""
    channels = [int(part) / 255 for part in color[4:-1].split(",")]
    return sum(
        math.pow(c, 2.2) * w for c, w in zip(channels, (0.2126, 0.7152, 0.0722), strict=True)
    )
