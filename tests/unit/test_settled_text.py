"""Text is handed out once no later token can change it, and all of it in the end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmq.infer.settled_text import SettledText


def decode(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode("utf-8", "replace")


def pieces(tokens: bytes, *stops: str) -> list[str]:
    """One for each token up to the one that stops, and one for the end if none does."""
    text = SettledText(decode, stops)
    found = []
    for token in tokens:
        found.append(text.add(token))
        if text.stopped:
            return found
    return [*found, text.end()]


def test_text_comes_with_its_tokens() -> None:
    assert pieces(b"abc") == ["a", "b", "c", ""]


def test_a_character_comes_when_its_last_byte_does() -> None:
    assert pieces("é€😀".encode()) == ["", "é", "", "", "€", "", "", "", "😀", ""]


def test_bytes_that_never_become_a_character_come_all_the_same() -> None:
    assert pieces(b"\xe2\x82a") == ["", "", "\N{REPLACEMENT CHARACTER}a", ""]
    assert pieces(b"a\xe2\x82") == ["a", "", "", "\N{REPLACEMENT CHARACTER}"]


def test_what_may_become_a_stop_text_is_held_until_it_does_or_does_not() -> None:
    assert pieces(b"xSTAY", "STOP") == ["x", "", "", "STA", "Y", ""]
    assert pieces(b"xSTOPy", "STOP") == ["x", "", "", "", ""]
    assert pieces(b"xST", "STOP") == ["x", "", "", "ST"]


def test_a_beginning_within_a_beginning_is_found() -> None:
    assert "".join(pieces(b"aab", "ab")) == "a"
    assert "".join(pieces(b"ababac", "abac")) == "ab"


def test_of_several_stop_texts_the_first_that_is_whole_ends_the_text_before_the_earliest() -> None:
    assert "".join(pieces(b"abcdef", "e", "bcd")) == "a"
    assert "".join(pieces(b"abcdef", "cd", "bcd")) == "a"


def test_a_stop_text_that_several_tokens_bring_at_once_is_found_in_their_middle() -> None:
    text = SettledText(lambda tokens: "one two three "[: 6 * len(tokens)], ["two"])
    assert [text.add(0), text.stopped] == ["one ", False]
    assert [text.add(0), text.stopped] == ["", True]


@given(st.binary(max_size=40))
def test_without_stop_texts_the_pieces_together_are_the_text(tokens: bytes) -> None:
    assert "".join(pieces(tokens)) == decode(tokens)


@given(
    st.text(alphabet="ab€", max_size=20),
    st.lists(st.text(alphabet="ab€", min_size=1, max_size=4), max_size=3),
)
def test_with_stop_texts_they_are_the_text_before_the_first(text: str, stops: list[str]) -> None:
    """The first is the one that is whole earliest; of those, the one that begins earliest."""
    wanted = text
    for end in range(len(text) + 1):
        places = [place for stop in stops if (place := text[:end].find(stop)) >= 0]
        if places:
            wanted = text[: min(places)]
            break
    assert "".join(pieces(text.encode(), *stops)) == wanted


@pytest.mark.parametrize("stops", [(), ("b",)])
def test_nothing_is_handed_out_twice(stops: tuple[str, ...]) -> None:
    text = SettledText(decode, stops)
    assert [text.add(ord("a")), text.end(), text.end()] == ["a", "", ""]
