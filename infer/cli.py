"""``gradmq serving``: which of the releases that a node holds answers, and from where."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from gradmq.errors import GradmqError, SettingsError
from gradmq.security.token import read_token

app = App(name="serving", help="See and choose which releases a running inference node serves.")

Url = Annotated[str, Parameter(help="Of the node, as in http://127.0.0.1:8000.")]
TokenFile = Annotated[
    Path | None,
    Parameter(help="The node's token.", env_var="GRADMQ_INFER_TOKEN_FILE"),
]
Release = Annotated[int, Parameter(help="Number of a release that the node holds.")]
Label = Annotated[str, Parameter(help="stable or canary.")]

ANSWER_S = 10.0


@app.command
def show(
    url: Url,
    *,
    json_: Annotated[bool, Parameter("--json", help="Print JSON.", negative="")] = False,
    token_file: TokenFile = None,
) -> int:
    """Show what the node holds, and what answers."""
    found = _ask(url, None, {}, token_file)
    if json_:
        print(json.dumps(found))
        return 0
    return _print(found)


@app.command
def pin(url: Url, release: Release, *, token_file: TokenFile = None) -> int:
    """Answer from this release, whatever comes, until `unfreeze`."""
    return _print(_ask(url, "pin", {"release": release}, token_file))


@app.command
def freeze(url: Url, *, token_file: TokenFile = None) -> int:
    """Stay at the release that answers now."""
    return _print(_ask(url, "freeze", {}, token_file))


@app.command
def rollback(url: Url, *, token_file: TokenFile = None) -> int:
    """Go back to the release before the one that answers now, and stay there."""
    return _print(_ask(url, "rollback", {}, token_file))


@app.command
def unfreeze(url: Url, *, token_file: TokenFile = None) -> int:
    """Answer from the newest release again: ends a pin, a freeze, a rollback and a split."""
    return _print(_ask(url, "unfreeze", {}, token_file))


@app.command
def label(
    url: Url,
    label: Label,
    release: Annotated[
        int | None, Parameter(help="Which release; default: the one that answers now.")
    ] = None,
    *,
    token_file: TokenFile = None,
) -> int:
    """Mark a release: it is kept, and can have a share of the requests."""
    return _print(_ask(url, "label", {"label": label, "release": release}, token_file))


@app.command
def unlabel(url: Url, label: Label, *, token_file: TokenFile = None) -> int:
    """Take a mark away."""
    return _print(_ask(url, "unlabel", {"label": label}, token_file))


@app.command
def split(
    url: Url,
    shares: Annotated[
        list[str],
        Parameter(help="LABEL=WEIGHT of stable, canary, newest: stable=95 newest=5.", negative=""),
    ],
    *,
    token_file: TokenFile = None,
) -> int:
    """Divide the requests among labelled releases and the newest, until `unfreeze`."""
    weights = {}
    for share in shares:
        name, _, weight = share.partition("=")
        try:
            weights[name] = float(weight)
        except ValueError:
            raise SettingsError(f"{share}: write it as LABEL=WEIGHT, as in stable=95") from None
    return _print(_ask(url, "split", {"weights": weights}, token_file))


def _ask(
    url: str, action: str | None, body: Mapping[str, object], token_file: Path | None
) -> dict[str, Any]:
    """What the node answers; raises GradmqError with its words."""
    if not url.startswith(("http://", "https://")):
        raise SettingsError(f"{url} is no address of a node: write it like http://127.0.0.1:8000")
    token = read_token(token_file)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    path = f"{url.rstrip('/')}/gradmq/v1/serving"
    data = None
    if action is not None:
        path += f"/{action}"
        data = json.dumps(body).encode()
        headers["content-type"] = "application/json"
    try:
        request = urllib.request.Request(path, data, headers)  # noqa: S310  (http, see above)
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.UNAUTHORIZED:
            error.close()
            raise GradmqError(f"{url} asks for its token: give the right --token-file") from None
        raise GradmqError(f"{url} refused: {_words(error)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise GradmqError(f"no inference node answers at {url}: {reason}") from None


def _words(error: urllib.error.HTTPError) -> str:
    with error:
        try:
            return str(json.load(error)["error"])
        except (OSError, ValueError, KeyError, TypeError):
            return f"status {error.code}"


def _print(found: Mapping[str, Any]) -> int:
    print(found["text"])
    held: Sequence[Mapping[str, Any]] = found["held"]
    if held:
        print(f"{'release':>9} {'age':>10} {'answers':>9}  labels")
    for entry in held:
        here = "*" if entry["release"] == found["release"] else " "
        age, labels = f"{entry['age_s']:.1f} s", ", ".join(entry["labels"])
        line = f"{here}{entry['release']:>8} {age:>10} {entry['answers']:>9}  {labels}"
        print(line.rstrip())
    down = found["turned_down"]
    if down["count"]:
        last = f"the last was {down['release']}, which {down['reason']}"
        print(f"{down['count']} releases were not fit to be served; {last}")
    return 0
