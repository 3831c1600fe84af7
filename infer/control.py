"""Steering a node: which of the releases it holds answers, seen and set over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gradmq.infer.body import json_response
from gradmq.infer.node_api import NodeApi
from gradmq.infer.refusal import Refused, invalid, quoted
from gradmq.infer.serving import Serving
from gradmq.infer.steering import NotHeld, Pinned, Split

log = logging.getLogger(__name__)

Body = Mapping[str, object]

_LARGEST_WEIGHT = 1e6


class Control:
    """Answers ``/gradmq/v1/serving``: GET says what is held, POST …/ACTION changes what answers."""

    def __init__(self, node: NodeApi) -> None:
        self._node = node

    def routes(self) -> list[Route]:
        """The paths of this dialect."""
        return [
            Route("/gradmq/v1/serving", self.look, methods=["GET"]),
            Route("/gradmq/v1/serving/{action}", self.act, methods=["POST"]),
        ]

    async def look(self, request: Request) -> Response:
        """What ``described`` says."""
        return json_response(described(self._node.serving, self._node.clock()))

    async def act(self, request: Request) -> Response:
        """One of ``ACTIONS``; answers like ``look``, after it."""
        action = request.path_params["action"]
        if action not in ACTIONS:
            text = f"no action {quoted(action)}: there are {', '.join(ACTIONS)}"
            raise Refused(404, text, close=True)
        # Browsers always say it: a page that somebody looks at on this host must not steer.
        if "origin" in request.headers:
            raise Refused(403, "a web page cannot steer a node: use `gradmq serving`", close=True)
        fields, perform = ACTIONS[action]
        async with self._node.intake.json_object(request, self._node.deadline_s()) as body:
            unknown = sorted(set(body) - set(fields))
            if unknown:
                names = ", ".join(fields) or "none"
                raise invalid(f"unknown field {quoted(unknown[0])}: {action} takes {names}")
            try:
                perform(self._node.serving, body)
            except NotHeld as error:
                raise Refused(409, str(error)) from None
        log.info("%s: %s", action, self._node.serving.mode_text())
        return await self.look(request)


def described(serving: Serving, now: float) -> dict[str, object]:
    """What a node holds and how it chooses.

    ``mode`` is newest, pinned or split; ``release`` answers who wishes nothing, null before the
    first; ``weights`` is null unless split; ``held`` is oldest first.
    """
    mode = serving.mode
    down = serving.last_turned_down
    answering, newest = serving.holding(), serving.newest()
    return {
        "mode": {Pinned: "pinned", Split: "split"}.get(type(mode), "newest"),
        "text": serving.mode_text(),
        "release": answering and answering.release.number,
        "newest": newest and newest.release.number,
        "weights": dict(mode.weights) if isinstance(mode, Split) else None,
        "held": [
            {
                "release": held.release.number,
                "versions": held.release.versions_text(),
                "age_s": round(held.age_s(now), 3),
                "labels": serving.labels_of(held.release.number),
                "answers": held.answers,
            }
            for held in serving.held()
        ],
        "turned_down": {
            "count": serving.statistics(now).turned_down,
            "release": down and down.number,
            "reason": down and down.reason,
        },
    }


def _pin(serving: Serving, body: Body) -> None:
    serving.pin(_release(body))


def _label(serving: Serving, body: Body) -> None:
    serving.label(_text(body), None if body.get("release") is None else _release(body))


def _unlabel(serving: Serving, body: Body) -> None:
    serving.unlabel(_text(body))


def _split(serving: Serving, body: Body) -> None:
    weights = body.get("weights")
    if not isinstance(weights, dict) or not weights:
        raise invalid(f"weights must be an object, numbers by label; got {quoted(weights)}")
    for label, weight in weights.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not 0 < weight <= _LARGEST_WEIGHT:
            text = f"the weight of {quoted(label)} must be above 0 and at most {_LARGEST_WEIGHT:g}"
            raise invalid(f"{text}, got {quoted(weight)}")
    serving.split({label: float(weight) for label, weight in weights.items()})


def _release(body: Body) -> int:
    number = body.get("release")
    if type(number) is not int:
        raise invalid(f"release must be the number of a release, got {quoted(number)}")
    return number


def _text(body: Body) -> str:
    label = body.get("label")
    if not isinstance(label, str):
        raise invalid(f"label must be a string, got {quoted(label)}")
    return label


#: By name, the fields of its body and what it does; raises NotHeld or Refused 400.
ACTIONS: Mapping[str, tuple[tuple[str, ...], Callable[[Serving, Body], None]]] = {
    "pin": (("release",), _pin),
    "freeze": ((), lambda serving, _: serving.freeze()),
    "rollback": ((), lambda serving, _: serving.roll_back()),
    "unfreeze": ((), lambda serving, _: serving.unfreeze()),
    "label": (("label", "release"), _label),
    "unlabel": (("label",), _unlabel),
    "split": (("weights",), _split),
}
