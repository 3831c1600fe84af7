"""What a request says of the release it wants, in headers or in the query, and its choice of one.

``x-gradmq-max-age: 2s`` and ``?max_age=2s`` mean the same.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace

from starlette.requests import Request

from gradmq.config import seconds
from gradmq.infer.body import header
from gradmq.infer.refusal import RETRY_AFTER_S, Refused, invalid, quoted
from gradmq.infer.request_id import REQUEST_ID
from gradmq.infer.serving import Holding, Serving
from gradmq.infer.wish import Lack, WantedVersion, Wish

_HEADERS = "x-gradmq-"
_HEADERS_BYTES = _HEADERS.encode()

_WISHES = ("max_age", "min_release", "min_version", "pin", "wait")

_NO_WISH = Wish()


class Choice:
    """One request's way to a release; all methods may be called from any thread."""

    def __init__(
        self, request: Request, serving: Serving, clock: Callable[[], float], left_s: float
    ) -> None:
        """``left_s``: how long the request may take. Raises ``Refused`` 400 for a wrong wish."""
        given = _given(request)
        self._wish = _parsed(given) if given else _NO_WISH
        self._version_in_path = _version_in_path(request)
        if self._version_in_path is not None:
            if self._wish.pin not in (None, self._version_in_path):
                text = f"pin={self._wish.pin} in a request to version {self._version_in_path}"
                raise invalid(text, "pin")
            self._wish = replace(self._wish, pin=self._version_in_path)
        if "wait" in given:
            self._wait_s = min(left_s, _duration("wait", given["wait"]))
        else:
            waits = self._wish is not _NO_WISH and self._version_in_path is None
            self._wait_s = left_s if waits else 0.0
        self._serving = serving
        self._clock = clock
        self._waits_until = clock() + self._wait_s
        self._point = _point(header(request, REQUEST_ID))

    def is_possible(self) -> bool:
        """Whether a release is there; raises ``Refused`` if there will be none in time."""
        chosen = self._chosen()
        if isinstance(chosen, Holding):
            return True
        if chosen.later and self._clock() < self._waits_until:
            return False
        raise self._refused(chosen)

    def holding(self) -> Holding:
        """The release as of now; raises ``Refused``: 503 for what may come later, else 409."""
        chosen = self._chosen()
        if isinstance(chosen, Holding):
            return chosen
        raise self._refused(chosen)

    def _chosen(self) -> Holding | Lack:
        return self._serving.choose(self._wish, self._point, self._clock())

    def _refused(self, lack: Lack) -> Refused:
        held = self._serving.holding()
        if held is None:
            text = "waiting for the first release: training has not published a model yet"
            return Refused(503, text, retry_after_s=RETRY_AFTER_S)
        if self._version_in_path is not None and self._serving.find(self._version_in_path) is None:
            text = f"version '{self._version_in_path}' is not served here"
            number = held.release.number
            return Refused(404, f"{text}: the current one is {number}; {self._serving.held_text()}")
        age_s = held.age_s(self._clock())
        has = f"this node has release {held.release.number}, versions "
        has += f"{held.release.versions_text()}, age {age_s:.3f} s"
        if not lack.later:
            return Refused(409, f"{lack.text}; {has}", code="release_not_held")
        text = f"{lack.text}, after a wait of {self._wait_s:g} s; {has}"
        return Refused(503, text, code="release_not_there_yet", retry_after_s=RETRY_AFTER_S)


def _given(request: Request) -> dict[str, str]:
    """Wishes by name, each said once; raises ``Refused`` 400."""
    given: dict[str, str] = {}
    said = [
        (name.decode("latin-1").removeprefix(_HEADERS).replace("-", "_"), value.decode("latin-1"))
        for name, value in request.scope["headers"]
        if name.startswith(_HEADERS_BYTES)
    ]
    if not said and not request.scope["query_string"]:
        return given
    for name, _ in said:
        if name not in _WISHES:
            text = f"unknown header {quoted(_HEADERS + name.replace('_', '-'))}"
            raise invalid(f"{text}: a request may say {', '.join(_WISHES)}")
    said += [pair for pair in request.query_params.multi_items() if pair[0] in _WISHES]
    for name, value in said:
        if name in given:
            raise invalid(f"{name} is given twice", name)
        given[name] = value.strip()
    return given


def _parsed(given: dict[str, str]) -> Wish:
    wish = Wish()
    if "pin" in given:
        wish = replace(wish, pin=_number("pin", given["pin"]))
    if "min_release" in given:
        wish = replace(wish, min_release=_number("min_release", given["min_release"]))
    if "max_age" in given:
        wish = replace(wish, max_age_s=_duration("max_age", given["max_age"]))
    if "min_version" in given:
        versions = tuple(_version(entry.strip()) for entry in given["min_version"].split(","))
        wish = replace(wish, min_versions=versions)
    return wish


def _version_in_path(request: Request) -> int | None:
    version: str | None = request.path_params.get("version")
    if version is None:
        return None
    # Only as the dialect writes it: 01 is the name of no version.
    if not _is_number(version) or str(int(version)) != version:
        text = f"version {quoted(version)} is not served here: it is the number of a release"
        raise Refused(404, text)
    return int(version)


def _number(name: str, text: str) -> int:
    if not _is_number(text):
        raise invalid(f"{name} must be the number of a release, got {quoted(text)}", name)
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 18


def _duration(name: str, text: str) -> float:
    try:
        return float(str(seconds(text)))
    except ValueError:
        raise invalid(f"{name} must be a duration, as in 2s or 500ms: {quoted(text)}") from None


def _version(text: str) -> WantedVersion:
    if text == "-":
        return None
    incarnation, _, version = text.partition(":")
    if not _is_number(incarnation) or not _is_number(version):
        form = "INCARNATION:VERSION of each shard, or - where it does not matter, as in 1:4711,-"
        raise invalid(f"min_version must be {form}; got {quoted(text)}", "min_version")
    return int(incarnation), int(version)


def _point(request_id: str | None) -> float:
    """In [0, 1), the place in a split: the same for the same id, by chance without one."""
    if request_id is None:
        return random.random()
    digest = hashlib.blake2b(request_id.encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48
