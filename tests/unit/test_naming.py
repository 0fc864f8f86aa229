"""Foreign text as path segments, names and identifiers."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.core.naming import check_name, printable, quote, segment, unsegment

texts = st.text(st.characters(exclude_categories=()), min_size=1, max_size=40)
HOSTILE = ["..", ".", "a/../b", "-rf", "%2e%2e", "~", "a\0b", "a\nb", "\u202eevil", "A" * 249, "a" * 249, " ", "\\"]


@given(texts)
def test_a_segment_reads_back(name: str) -> None:
    """The encoding is one-to-one wherever it is not shortened."""
    made = segment(name)
    if "~" not in made:
        assert unsegment(made) == name


@given(st.one_of(texts, st.sampled_from(HOSTILE)))
def test_a_segment_stays_inside_its_folder(name: str) -> None:
    """No name becomes a path: no separator, no dots alone, no leading dash or dot, bounded length."""
    made = segment(name)
    assert PurePosixPath(made).parts == (made,)
    assert made not in (".", "..")
    assert made[0] not in "-."
    assert len(made) <= 120
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyzABCDEF0123456789_-.%~")


@given(texts, texts)
def test_different_names_get_different_segments(one: str, other: str) -> None:
    """Two names never share a segment, also not on a file system that folds case."""
    assert (segment(one).lower() == segment(other).lower()) == (one == other)


def test_long_names_differ_by_their_digest() -> None:
    """Names equal in what is kept of them still differ."""
    assert segment("a" * 248 + "b") != segment("a" * 249)


@pytest.mark.parametrize("name", ["", "-x", ".x", "a b", "a/b", "x" * 201, "é", "a\n", None, 3])
def test_unfit_names_are_refused(name: object) -> None:
    """Streams, pipelines and checks have plain names; the message quotes the text escaped."""
    with pytest.raises(DeclarationError):
        check_name("stream", name)  # type: ignore[arg-type]


def test_identifiers_are_quoted() -> None:
    """Quotes in an identifier are doubled, NUL is refused."""
    assert quote('a"; drop table x; --') == '"a""; drop table x; --"'
    with pytest.raises(DeclarationError):
        quote("a\0b")


@given(st.text())
def test_printable_is_one_plain_line(text: str) -> None:
    """Foreign text in a message is ASCII, one line, and bounded."""
    shown = printable(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= 120
