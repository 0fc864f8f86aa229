"""Payloads that are meant to break a decoder: each becomes a typed row or an undecodable one with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_eventlog.core.session import session
from tests.fuzz.settle import settle

CORPUS = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parent / "corpus").glob("*.bin"))}
EXPECTED = {
    "not_json": "not_json",
    "empty": "not_json",
    "not_object": "not_object",
    "deep": "too_deep",
    "wrong_utf8": "not_utf8",
    "encoded_surrogate": "not_utf8",
    "double_overflow": "does_not_fit",
}


def _settled(*payloads: bytes) -> list[str]:
    with session(threads=2) as connection:
        return settle(connection, payloads)


def test_the_corpus_together_is_settled_exactly_once() -> None:
    """Every payload of the corpus, in one batch, is typed or refused with a code and words, and known ones by it."""
    became = dict(zip(CORPUS, _settled(*CORPUS.values()), strict=True))
    assert became["good"] == "typed"
    assert {name: became[name] for name in EXPECTED} == EXPECTED


@pytest.mark.parametrize("name", CORPUS)
def test_bad_neighbours_change_nothing(name: str) -> None:
    """A payload between two good ones leaves both of them typed."""
    before, _, behind = _settled(CORPUS["good"], CORPUS[name], CORPUS["good"])
    assert (before, behind) == ("typed", "typed")


def test_ten_megabytes_decode() -> None:
    """A value of 10 MB is typed like any other."""
    assert _settled(b'{"s":"' + b"x" * 10_000_000 + b'"}', CORPUS["good"]) == ["typed", "typed"]
