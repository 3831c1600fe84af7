"""Steering a node over HTTP, and by ``gradmq serving``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gradmq.cli import main
from gradmq.serve import TensorModel

pytestmark = pytest.mark.torch

INFER = "/v2/models/sums/infer"
ROW = {"inputs": [{"name": "rows", "datatype": "FP32", "shape": [1, 3], "data": [0, 0, 0]}]}
TOKEN = "a-token-of-many-characters"


def sums(rows: Any) -> Any:
    return rows.sum(dim=1), rows * 2


@pytest.fixture
def node(serve_node: Any, sums_spec: TensorModel) -> Any:
    """Holds releases 3, 8 and 9, of which the newest answers; keeps three."""
    node = serve_node("sums", sums_spec, keep=3)
    for number in (3, 8, 9):
        node.offer(number, sums)
    return node


def answering(node: Any) -> str:
    release: str = node.post(INFER, ROW).headers["x-gradmq-release"]
    return release


def act(node: Any, action: str, **body: Any) -> Any:
    return node.post(f"/gradmq/v1/serving/{action}", body)


def serving(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run ``gradmq serving``: (exit status, stdout, stderr)."""
    with pytest.raises(SystemExit) as ended:
        main(["serving", *words])
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def test_a_node_says_what_it_holds(node: Any) -> None:
    node.post(INFER, ROW)
    node.serving.turn_down(10, "has a weight that is not finite")
    found = node.client.get("/gradmq/v1/serving").json()
    ages = [held.pop("age_s") for held in found["held"]]
    assert ages == sorted(ages, reverse=True)
    assert found == {
        "mode": "newest",
        "text": "this node answers from its newest release",
        "release": 9,
        "newest": 9,
        "weights": None,
        "held": [
            {"release": 3, "versions": "1:30,2:31", "labels": [], "answers": 0},
            {"release": 8, "versions": "1:80,2:81", "labels": [], "answers": 0},
            {"release": 9, "versions": "1:90,2:91", "labels": [], "answers": 1},
        ],
        "turned_down": {"count": 1, "release": 10, "reason": "has a weight that is not finite"},
    }


def test_what_is_steered_answers_from_the_next_request_on(node: Any) -> None:
    assert act(node, "pin", release=3).json()["release"] == 3
    assert answering(node) == "3"
    act(node, "unfreeze")
    assert answering(node) == "9"
    act(node, "freeze")
    node.offer(10, sums)
    assert answering(node) == "9"
    act(node, "rollback")
    assert answering(node) == "8"
    act(node, "label", label="stable")
    act(node, "label", label="canary", release=10)
    found = act(node, "split", weights={"stable": 1, "canary": 1e-6}).json()
    assert (found["mode"], found["weights"]) == ("split", {"stable": 1, "canary": 1e-6})
    assert found["held"][0]["labels"] == ["stable"]
    assert answering(node) == "8"
    act(node, "unfreeze")
    assert act(node, "unlabel", label="stable").json()["held"][0]["labels"] == []


def test_steering_counts_as_no_request_to_the_model(node: Any) -> None:
    act(node, "freeze")
    act(node, "pin", release=4)
    requests = node.client.get("/gradmq/v1/status").json()["requests"]
    assert requests == {"answered": 0, "refused": 0, "failed": 0}


@pytest.mark.parametrize(
    ("action", "body", "status", "says"),
    [
        ("thaw", {}, 404, "no action 'thaw': there are pin, freeze, rollback"),
        ("pin", {"release": 4}, 409, "release 4 is not held here; held are 3, 8, 9"),
        ("pin", {"release": "4"}, 400, "release must be the number of a release, got '4'"),
        ("pin", {"release": True}, 400, "release must be the number of a release, got True"),
        ("freeze", {"release": 4}, 400, "unknown field 'release': freeze takes none"),
        ("label", {"label": "best"}, 409, "'best' is no label: there are stable, canary"),
        ("label", {}, 400, "label must be a string, got None"),
        ("unlabel", {"label": "stable"}, 409, "no release is labelled 'stable'"),
        ("split", {}, 400, "weights must be an object, numbers by label; got None"),
        ("split", {"weights": {"newest": 0}}, 400, "the weight of 'newest' must be above 0"),
        ("split", {"weights": {"newest": 1e300}}, 400, "the weight of 'newest' must be above 0"),
        ("split", {"weights": {"stable": 1}}, 409, "no release is labelled 'stable'"),
    ],
)
def test_steering_that_cannot_be_done_changes_nothing_and_says_why(
    node: Any, action: str, body: dict[str, Any], status: int, says: str
) -> None:
    refused = act(node, action, **body)
    assert refused.status_code == status
    assert says in refused.json()["error"]
    assert answering(node) == "9"


def test_a_web_page_cannot_steer(node: Any) -> None:
    headers = {"origin": "http://evil.example"}
    refused = node.client.post("/gradmq/v1/serving/pin", json={"release": 3}, headers=headers)
    assert refused.status_code == 403
    assert answering(node) == "9"


def test_who_steers_a_node_with_a_token_must_bear_it(
    serve_node: Any, sums_spec: TensorModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = serve_node("sums", sums_spec, token=TOKEN)
    node.offer(1, sums)
    assert act(node, "freeze").status_code == 401
    status, out, err = serving(capsys, "freeze", node.url)
    assert (status, out) == (1, "")
    assert err == f"gradmq: {node.url} asks for its token: give the right --token-file\n"
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    token_file.chmod(0o600)
    assert serving(capsys, "freeze", node.url, "--token-file", str(token_file))[0] == 0
    assert node.serving.mode is not None


def test_each_command_does_what_it_says_and_shows_what_is_now(
    node: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, first_line in (
        (("pin", node.url, "3"), "this node stays at release 3 (pinned)"),
        (("label", node.url, "stable"), "this node stays at release 3 (pinned)"),
        (("unfreeze", node.url), "this node answers from its newest release"),
        (("freeze", node.url), "this node stays at release 9 (frozen)"),
        (("rollback", node.url), "this node stays at release 8 (rolled back from release 9)"),
        (
            ("split", node.url, "stable=95", "newest=5"),
            "this node splits requests: stable=95, newes",
        ),
        (("show", node.url), "this node splits requests: stable=95, newest=5"),
        (("unfreeze", node.url + "/"), "this node answers from its newest release"),
        (("unlabel", node.url, "stable"), "this node answers from its newest release"),
    ):
        status, out, err = serving(capsys, *words)
        assert (status, err) == (0, "")
        assert out.startswith(first_line)
    assert "*       9" in out
    assert serving(capsys, "show", node.url, "--json")[1].startswith('{"mode": "newest"')


def test_a_command_that_cannot_be_done_says_so_in_one_line(
    node: Any, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    for words, says in (
        (("pin", node.url, "4"), "refused: release 4 is not held here; held are 3, 8, 9"),
        (("split", node.url, "stable"), "stable: write it as LABEL=WEIGHT, as in stable=95"),
        (("show", "127.0.0.1:8000"), "127.0.0.1:8000 is no address of a node"),
        (("show", f"http://127.0.0.1:{free_port}"), "no inference node answers at http://127"),
    ):
        status, out, err = serving(capsys, *words)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert says in err
