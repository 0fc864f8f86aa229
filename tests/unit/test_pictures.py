"""The pictures of the docs are what the package makes of their rows, and are where the text speaks of them."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from docs.pictures.draw import HERE, SCENES, Scene, draw, play

PAGE = (HERE.parent / "windows.md").read_text()


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_a_picture_is_drawn_again_to_the_byte(scene: Scene) -> None:
    """Folded again, the rows give the picture that stands, and it is well-formed with a title."""
    again = draw(scene)
    assert (HERE / f"{scene.name}.svg").read_text() == again
    root = ET.fromstring(again)
    assert root.findtext("{http://www.w3.org/2000/svg}title") == scene.title


def test_every_picture_is_shown_and_told_in_words() -> None:
    """The page shows each picture once, with words for those who cannot see it, and shows no other."""
    shown = {name: words for words, name in re.findall(r"!\[([^]]+)\]\(pictures/(\w+)\.svg\)", PAGE)}
    assert set(shown) == {scene.name for scene in SCENES} == {path.stem for path in Path(HERE).glob("*.svg")}
    assert all(len(words) > 60 for words in shown.values())


def test_the_pictures_show_what_they_speak_of() -> None:
    """One row is late, or amends a final window, and a session goes over two batches."""
    told = {scene.name: play(scene) for scene in SCENES}
    assert told["late"].late == {(2, 6.0)}
    assert told["amend"].late == set()
    assert "rev 3" in told["amend"].windows[0][2]
    assert told["session"].windows[0][:2] == (1.0, 17.0)
