"""The page's files: what they are, what they may do, and who gets them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gradmq.infer import page

FOLDER = Path(page.__file__).parent / "page"
FILES = [path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()]

TOKEN = "secret-token-of-32-characters-long"


def test_the_page_is_at_the_root(sums_node: Any) -> None:
    answer = sums_node.client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.content == (FOLDER / "index.html").read_bytes()


@pytest.mark.parametrize("path", FILES)
def test_each_file_is_served_as_what_it_is_under_a_strict_policy(sums_node: Any, path: str) -> None:
    answer = sums_node.client.get(f"/page/{path}")
    assert answer.content == (FOLDER / path).read_bytes()
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg"}
    assert answer.headers["content-type"].startswith(kinds.get(path.rsplit(".")[-1], "text/plain"))
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; ")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_a_file_is_sent_again_only_to_who_has_another_one(sums_node: Any) -> None:
    first = sums_node.client.get("/page/main.js")
    assert first.headers["cache-control"] == "no-cache"
    headers = {"if-none-match": first.headers["etag"]}
    again = sums_node.client.get("/page/main.js", headers=headers)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert sums_node.client.get("/page/page.css", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page/other.js",
        "/page/..%2fpage.py",
        "/page/vendor",
        "/page//etc/passwd",
        "/page",
    ],
)
def test_what_is_no_file_of_the_page_is_not_there(sums_node: Any, path: str) -> None:
    answer = sums_node.client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"


def test_the_page_needs_no_token_and_everything_behind_it_does(
    serve_node: Any, sums_spec: Any
) -> None:
    node = serve_node("sums", sums_spec, token=TOKEN)
    assert node.client.get("/").status_code == 200
    assert node.client.get("/page/main.js").status_code == 200
    for path in ("/page/..%2fgradmq/v1/status", "/page/../gradmq/v1/status"):
        assert node.client.get(path).status_code in (401, 404)
    assert node.client.get("/gradmq/v1/status").status_code == 401


def test_nothing_in_the_page_comes_from_elsewhere_or_is_written_into_the_markup() -> None:
    html = (FOLDER / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", html)
    ours = [FOLDER / path for path in FILES if not path.startswith("vendor/")]
    for path in ours:
        text = path.read_text()
        addresses = set(re.findall(r"https?://[^\s\"'`<]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)


def test_what_is_not_ours_comes_with_its_notice() -> None:
    assert "The MIT License" in (FOLDER / "vendor" / "LICENSE").read_text()
    begin = (FOLDER / "vendor" / "uPlot.iife.min.js").read_text()[:80]
    assert "uPlot (v1.6." in begin
