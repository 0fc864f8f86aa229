"""A report as one HTML page: nothing is loaded, nothing runs, and no foreign text becomes markup.

Escaping is the template library's, on for everything; a policy in the page itself forbids scripts and all resources but
the one style sheet that stands in it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core.naming import visible
from airflow_provider_eventlog.core.report import flow

if TYPE_CHECKING:
    from jinja2 import Template


def page(document: Mapping[str, Any]) -> str:
    """The page of what `collect.collect` gives; the same text for equal documents."""
    return _template("page.html.jinja").render(
        report=document, picture=flow.picture(document["flow"]), style=_style(), policy=policy(), title=_title(document)
    )


def listing(title: str, links: Sequence[tuple[str, str]]) -> str:
    """A page of (text, relative address) links, as harmless as a report."""
    return _template("listing.html.jinja").render(
        title=visible(title, 1000), links=links, style=_style(), policy=policy()
    )


def policy() -> str:
    """The page's Content-Security-Policy; a server that hands it out says the same, and who may frame it."""
    digest = base64.b64encode(sha256(_style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _title(document: Mapping[str, Any]) -> str:
    batch, generation = document["batch"]["batch_id"], document["generation"]["generation"]
    return f"{document['pipeline']}, batch {batch}, generation {generation}"


def _style() -> str:
    return _file("page.css")


@cache
def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _template(name: str) -> Template:
    # Only a report needs it.
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["count"] = _count
    return environment.from_string(_file(name))


def _count(value: Any) -> str:
    """A number for people; what there is none of is a dash."""
    return "-" if value is None else f"{value:,}" if isinstance(value, (int, float)) else str(value)
