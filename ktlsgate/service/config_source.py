"""A raw configuration document: its tables read by the table of their keys, its complaints placed.

Theory: reading goes on after a mistake, so that the operator sees all of them
at once. A value that cannot be used is left out of the result and complained of
here; whoever builds on the result never sees it. The place of a complaint is
looked up from the path of the value outwards: the flag it came from, or its
line, or the line of the nearest table around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError
from .config_values import Reader, UnexpectedError, came, nearest, quote
from .toml_lines import KeyPath

__all__ = ["Shape", "Source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Which keys a table has.

    Attributes:
        place: the table as complaints name it, ``[limits]``.
        fields: each key's reader.
        required: the keys that must be there.
        elsewhere: keys that are read by somebody else (the tables below the top).
    """

    place: str
    fields: Mapping[str, Reader]
    required: Sequence[str] = ()
    elsewhere: Sequence[str] = ()


@dataclass(slots=True, kw_only=True)
class Source:
    """A raw document, where each part of it was written, and what is wrong with it.

    Attributes:
        name: the file's name in complaints.
        document: what `tomllib` made of it; flags are put into it.
        lines: the line of each path.
        folder: where relative file names start.
        homes: for a key in the wrong table, the places where it belongs.
    """

    name: str
    document: dict[str, Any]
    lines: dict[KeyPath, int]
    folder: str
    homes: Mapping[str, Sequence[str]]
    _flags: dict[KeyPath, str] = field(default_factory=dict)
    _complaints: list[tuple[int, str]] = field(default_factory=list)

    def put(self, path: KeyPath, value: object, flag: str) -> None:
        """Write a flag's value into the document in place of all that was below ``path``."""
        self.lines = {at: line for at, line in self.lines.items() if at[: len(path)] != path}
        self._flags[path] = flag
        target: Any = self.document
        for part in path[:-1]:
            target = target[part]
        target[path[-1]] = value

    def complain(self, path: KeyPath, text: str) -> None:
        """Note what is wrong with the value at ``path``."""
        key = ".".join(_written(part) for part in path if isinstance(part, str))
        for end in range(len(path), 0, -1):
            if flag := self._flags.get(path[:end]):
                self._complaints.append((0, f"{flag}: {text}"))
                return
            if line := self.lines.get(path[:end]):
                self._complaints.append((line, f"{self.name}:{line}: {key}: {text}"))
                return
        self._complaints.append((0, f"{self.name}: {key}: {text}"))

    def raise_complaints(self) -> None:
        """End the reading.

        Raises:
            ConfigError: there were complaints; in the order of the lines.
        """
        if self._complaints:
            # Stable: complaints about one line stay in the order of reading.
            ordered = sorted(self._complaints, key=lambda complaint: complaint[0])
            raise ConfigError(*dict.fromkeys(text for _, text in ordered))

    def read(self, path: KeyPath, raw: object, shape: Shape) -> dict[str, Any]:
        """Read one table: the good values by key; what is absent or wrong is not among them."""
        if not isinstance(raw, dict):
            self.complain(path, f"expected a table {shape.place}, got {came(raw)}")
            return {}
        found = {}
        for key, value in raw.items():
            if key in shape.elsewhere:
                continue
            if key not in shape.fields:
                self.complain((*path, key), self._unknown(key, shape))
                continue
            try:
                found[key] = shape.fields[key](value)
            except UnexpectedError as exc:
                for indexes, text in exc.parts:
                    self.complain((*path, key, *indexes), text)
        for key in shape.required:
            if key not in raw:
                self.complain((*path, key), f"expected this key in {shape.place}, got none")
        return found

    def read_list(self, name: str, shape: Shape) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
        """Read an array of tables: each one's path and good values."""
        raw = self.document.get(name, [])
        if not isinstance(raw, list):
            got = f"[{name}]" if isinstance(raw, dict) else came(raw)
            self.complain((name,), f"expected {shape.place}, got {got}")
            return
        for index, table in enumerate(raw):
            yield (name, index), self.read((name, index), table, shape)

    def _unknown(self, key: str, shape: Shape) -> str:
        known = (*shape.fields, *shape.elsewhere)
        text = f"expected a key of {shape.place}, got {quote(key)}"
        if homes := self.homes.get(key):
            return f"{text}; it is a key of {' or '.join(homes)}"
        if hint := nearest(key, known):
            return text + hint
        return f"{text}; known are {', '.join(known)}"


def _written(part: str) -> str:
    return part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else quote(part)
