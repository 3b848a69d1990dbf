"""Put a table into the README between two markers."""

from __future__ import annotations

from .machine import BenchError

__all__ = ["BEGIN", "END", "replace_table"]

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def replace_table(text: str, table: str) -> str:
    """Return the text with the table in the place of what stood between the markers.

    Raises:
        BenchError: there is not one marker of each kind, in this order.
    """
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise BenchError(f"expected the lines {BEGIN} and {END} once each")
    return f"{before}{begin}{table}{end}{after}"
