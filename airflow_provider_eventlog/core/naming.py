"""The only place where foreign text becomes a path segment or an SQL identifier.

Path segments are percent-encoded into [A-Za-z0-9_-] plus `%XX` and `.` inside; the encoding is one-to-one, is
never empty, `.` or `..`, never starts with `-` or `.`, and differs for names that differ only in case on
file systems that fold it (upper-case letters are escaped). Names whose encoding is over 120 characters keep
their first 80 and end in a digest.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote_to_bytes

from airflow_provider_eventlog.core.errors import DeclarationError

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-.")
_MAX_SEGMENT = 120
_KEPT = 80
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def segment(name: str) -> str:
    """One path segment for `name`; raises DeclarationError for the empty text.

    `~` marks a shortened name; it is outside the alphabet of whole names, so the two cannot collide.
    """
    if not name:
        raise DeclarationError("An empty name cannot become a path.")
    raw = name.encode("utf-8", "surrogatepass")
    out = "".join(chr(b) if b in _PLAIN and not (i == 0 and b in b".-") else f"%{b:02X}" for i, b in enumerate(raw))
    if len(out) <= _MAX_SEGMENT:
        return out
    return f"{out[:_KEPT].rstrip('%')}~{hashlib.sha256(raw).hexdigest()[:32]}"


def unsegment(text: str) -> str:
    """The name behind a whole (not shortened) segment; raises DeclarationError for a shortened one."""
    if "~" in text:
        raise DeclarationError(f"The path segment {text!r} is shortened; its name cannot be read back.")
    return unquote_to_bytes(text).decode("utf-8", "surrogatepass")


def check_name(kind: str, name: str) -> str:
    """Return `name` if it is fit for a stream, pipeline, check or output; else raise DeclarationError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DeclarationError(
            f"The {kind} name {printable(name)} is not usable: 1 to 200 of letters, digits, '.', '_' and '-', "
            f"starting with a letter or digit."
        )
    return name


def check_column(name: str) -> str:
    """Return `name` if it can be a column; else raise DeclarationError (empty, NUL or control characters, too long)."""
    if not isinstance(name, str) or not name or len(name) > 255 or not name.isprintable():
        raise DeclarationError(
            f"The column name {printable(name)} is not usable: 1 to 255 printable characters are needed."
        )
    return name


def quote(identifier: str) -> str:
    """An identifier quoted for DuckDB and PostgreSQL; raises DeclarationError for NUL."""
    if "\0" in identifier:
        raise DeclarationError(f"The identifier {printable(identifier)} holds a NUL character.")
    return '"' + identifier.replace('"', '""') + '"'


def printable(value: object, limit: int = 120) -> str:
    """Foreign text made fit for one line of a log: escaped, quoted and cut to `limit` characters."""
    text = ascii(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def visible(value: str | bytes, limit: int = 200) -> str:
    """Foreign text or bytes for a page: cut to `limit` characters, and what does not print is shown as an escape.

    Control characters, NUL, marks that turn the direction of writing and bytes that are no UTF-8 are escaped; letters
    of all scripts stay. It is still foreign text: what embeds it in a language (HTML, SQL) escapes it for that.
    """
    # No character takes more than four bytes, so that enough of them are looked at.
    start = bytes(value[: 4 * limit + 4]).decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in start[:limit])
    return shown if len(start) <= limit else f"{shown}..."
