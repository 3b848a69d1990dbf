"""Which line of a TOML text each key stands on.

`tomllib` says where a syntax error is and forgets the place of everything that
it accepted (cpython#115516 was closed without positions). An operator with
forty routes needs the line, so this scanner walks the same text once more and
notes nothing but places.

Theory: the text has been accepted by `tomllib` before, so the scanner checks
nothing. It has to know only what moves it past a value: the four kinds of
strings, arrays, inline tables, comments, and the end of any other scalar. The
tables it must follow are headers (``[a.b]``), arrays of tables (``[[a]]``, each
one a new index) and headers below the newest element of such an array.

Invariant: the keys of the result are exactly the paths of the parsed document,
every table, array, element and value (tested with generated documents).
"""

from __future__ import annotations

import bisect
import re
import tomllib

__all__ = ["KeyPath", "key_lines"]

KeyPath = tuple[str | int, ...]
"""Names of keys and indexes of array elements, from the top of the document."""

_GAP = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# Two more quotes may stand before the closing three and belong to the text.
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
# Numbers, booleans and dates (which may hold a space).
_SCALAR = re.compile(r"[^,\]}#\r\n]+")


def key_lines(text: str) -> dict[KeyPath, int]:
    """Map every path of a TOML document to the line, from 1, where it is written.

    A table that is written in several places has the line of its own header if
    it has one, else of the first key below it.

    Args:
        text: a document that `tomllib.loads` accepts; the result for any other is undefined.

    Returns:
        Paths with array indexes as integers: ``("listen", 0, "address")``.
    """
    scanner = _Scanner(text)
    scanner.scan()
    return scanner.lines


class _Scanner:
    """A position in the text, and what was seen before it."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._position = 0
        self._line_ends = [match.start() for match in re.finditer("\n", text)]
        self._table_counts: dict[KeyPath, int] = {}

    def scan(self) -> None:
        """Walk all statements."""
        table: KeyPath = ()
        self._skip(_GAP)
        while self._position < len(self._text):
            if self._text.startswith("[[", self._position):
                table = self._header(width=2)
            elif self._text[self._position] == "[":
                table = self._header(width=1)
            else:
                self._pair(table)
            self._skip(_GAP)

    def _header(self, width: int) -> KeyPath:
        line = self._line()
        self._position += width
        *parents, last = self._key()
        self._position += width
        path: KeyPath = ()
        for name in parents:
            path += (name,)
            self.lines.setdefault(path, line)
            if path in self._table_counts:
                path += (self._table_counts[path] - 1,)
        path += (last,)
        if width == 2:
            self.lines.setdefault(path, line)
            index = self._table_counts.get(path, 0)
            self._table_counts[path] = index + 1
            path += (index,)
        self.lines[path] = line
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for name in self._key():
            path += (name,)
            self.lines.setdefault(path, line)
        self._position += len("=")
        self._skip(_BLANK)
        self._value(path)

    def _key(self) -> list[str]:
        """Read ``a . "b.c" . 'd'`` and the blanks behind it."""
        names = []
        while True:
            self._skip(_BLANK)
            names.append(self._key_part())
            self._skip(_BLANK)
            if self._text[self._position] != ".":
                return names
            self._position += 1

    def _key_part(self) -> str:
        if self._text[self._position] not in "\"'":
            return self._skip(_BARE_KEY)
        # Escapes are tomllib's business here too.
        return str(tomllib.loads("k = " + self._skip(_STRING))["k"])

    def _value(self, path: KeyPath) -> None:
        opening = self._text[self._position]
        if opening == "[":
            self._array(path)
        elif opening == "{":
            self._inline_table(path)
        else:
            self._skip(_STRING if opening in "\"'" else _SCALAR)

    def _array(self, path: KeyPath) -> None:
        self._position += 1
        index = 0
        while not self._is_closed_by("]"):
            self.lines[(*path, index)] = self._line()
            self._value((*path, index))
            index += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._position += 1
        while not self._is_closed_by("}"):
            self._pair(path)

    def _is_closed_by(self, closing: str) -> bool:
        """Skip to the next element; at the end step over ``closing`` and say so."""
        self._skip(_GAP)
        if self._text[self._position] == ",":
            self._position += 1
            self._skip(_GAP)
        if self._text[self._position] != closing:
            return False
        self._position += 1
        return True

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._position)
        if match is None:
            raise AssertionError("the text was accepted by tomllib")
        self._position = match.end()
        return match.group()

    def _line(self) -> int:
        return bisect.bisect_left(self._line_ends, self._position) + 1
