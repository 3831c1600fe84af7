"""Which inference nodes of a run are started again, and when."""

from __future__ import annotations

from typing import Any, cast

from gradmq.run.nodes import PAUSES_S, STAYED_S, Nodes
from gradmq.run.roles import RoleProcess

SERVES = {"infer": [{"name": "infer-1", "release": 7, "url": "http://127.0.0.1:8000"}]}


class Role:
    """A process that ends when the test says so."""

    def __init__(self, name: str, port: int) -> None:
        self.name, self.port = name, port
        self.ended = ""

    def failure(self) -> str | None:
        return self.ended or None

    def close(self) -> None:
        self.ended = "closed"


def nodes() -> Nodes:
    return Nodes(cast(Any, Role))


def look(nodes: Nodes, roles: list[Role], now: float, status: Any = SERVES) -> list[str]:
    return nodes.look(cast("list[RoleProcess]", roles), status, now)


def lose(roles: list[Role]) -> None:
    roles[-1].ended = "infer-1 was killed by SIGKILL"


def test_a_node_that_served_is_started_again_at_its_port() -> None:
    looked_after, roles = nodes(), [Role("worker-1", 0), Role("infer-1", 0)]
    assert look(looked_after, roles, 0.0) == []
    lose(roles)
    told = look(looked_after, roles, 1.0, {"infer": []})
    assert told == ["infer-1 was killed by SIGKILL; it is started again"]
    assert [(role.name, role.ended) for role in roles] == [("worker-1", ""), ("infer-1", "")]
    assert roles[-1].port == 8000


def test_the_pauses_grow_and_then_it_is_given_up() -> None:
    looked_after, roles = nodes(), [Role("infer-1", 0)]
    now = 0.0
    look(looked_after, roles, now)
    for pause_s in PAUSES_S:
        lose(roles)
        assert len(look(looked_after, roles, now)) == 1
        if pause_s:
            assert roles == []
            assert look(looked_after, roles, now + 0.9 * pause_s) == []
            assert roles == []
            now += pause_s
            look(looked_after, roles, now)
        assert [role.ended for role in roles] == [""]
    lose(roles)
    assert look(looked_after, roles, now) == []
    assert [role.ended for role in roles] == ["infer-1 was killed by SIGKILL"]


def test_who_stays_for_a_while_has_all_tries_again() -> None:
    looked_after, roles = nodes(), [Role("infer-1", 0)]
    now = 0.0
    look(looked_after, roles, now)
    for _ in range(3 * len(PAUSES_S)):
        now += STAYED_S
        lose(roles)
        look(looked_after, roles, now)
        assert [role.ended for role in roles] == [""], "at once"


def test_a_node_that_never_served_is_not_started_again() -> None:
    looked_after, roles = nodes(), [Role("infer-1", 0)]
    lose(roles)
    for status in ({}, {"infer": [{"name": "infer-1", "release": 0, "url": "http://h:8000"}]}):
        assert look(looked_after, roles, 0.0, status) == []
    assert roles[0].ended != "closed"
