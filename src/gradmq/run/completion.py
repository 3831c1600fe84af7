"""The same prompt, completed by the first and the last release of a run, over HTTP."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from gradmq.job import Job
from gradmq.security.token import read_token
from gradmq.serve import TextModel
from gradmq.view.summary import Completion

TOKENS = 120
ANSWER_S = 20.0


class Completions:
    """Asks the inference node once when it first serves and once at the end, beside the screen."""

    def __init__(self, job: Job | None, token_file: Path | None) -> None:
        spec = job.serve() if job is not None and job.serve is not None else None
        self.prompt = spec.sample_prompt if isinstance(spec, TextModel) else ""
        token = read_token(token_file)
        self._headers = {"content-type": "application/json"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"
        self._model = job.name if job is not None else ""
        self._thread: threading.Thread | None = None
        self._first: Completion | None = None
        self._last: Completion | None = None

    def __enter__(self) -> Completions:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._thread.join(1.0)

    def look(self, status: Mapping[str, Any]) -> None:
        """Ask for the first completion once a node serves."""
        url = _url(status)
        if self.prompt and url and self._thread is None:
            self._thread = threading.Thread(target=self._ask_first, args=(url,), daemon=True)
            self._thread.start()

    def finish(self, status: Mapping[str, Any]) -> None:
        """Ask for the last completion; waits for it."""
        url = _url(status)
        if self.prompt and url:
            self._last = self._ask(url)

    def answers(self) -> tuple[Completion, ...]:
        """Of the first and the last release, as far as they came."""
        return tuple(c for c in (self._first, self._last) if c is not None)

    def _ask_first(self, url: str) -> None:
        self._first = self._ask(url)

    def _ask(self, url: str) -> Completion | None:
        body = {"model": self._model, "prompt": self.prompt, "max_tokens": TOKENS, "seed": 0,
                "temperature": 0.5}  # fmt: skip
        request = urllib.request.Request(  # noqa: S310  (the node's own http address)
            f"{url}/v1/completions", json.dumps(body).encode(), self._headers
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310
                text = json.load(answer)["choices"][0]["text"]
                return Completion(int(answer.headers["x-gradmq-release"]), text)
        except (OSError, ValueError, KeyError):
            return None  # a demonstration; the node's log says what went wrong


def _url(status: Mapping[str, Any]) -> str:
    return next((n["url"] for n in status["infer"] if n["live"] and n["url"] and n["release"]), "")
