r"""The request head as bytes again, for a server that parses HTTP itself.

A handoff carries the head as names and values (`ktlsgate.wire.handoff_scgi`), not as
it came. What is built here means the same, and differs in this:

- header names are written ``Like-This``; their order is the handoff's;
- a header that came more than once is one line, joined as the gate joined it (from a
  sender of nginx's dialect the last one is left);
- ``Proxy`` and names with an underscore are absent: no gate hands them over;
- nginx's dialect does not tell the version: HTTP/1.1 is what it hands over;
- on a connection of keep-alive ``single`` the request says ``Connection: close``, unless
  it wants an upgrade: then the server says so in its answer, too, and no client
  believes in a second request that nobody would read.

A sender that puts line breaks into values could add headers, so it is refused.
"""

from __future__ import annotations

import re

from ..errors import HandoffMalformed
from ..wire.handoff_scgi import ReceivedHead

__all__ = ["rebuild_head"]

_REQUEST = re.compile(r"[!#-'*+.0-9A-Z^-z|~-]+ [!-~\x80-\xff]+ HTTP/1\.[01]")
_NAME = re.compile(r"[!#-'*+.0-9A-Z^-z|~-]+")
_BREAKS = re.compile(r"[\r\n\0]")
_PREFIX = "HTTP_"


def rebuild_head(head: ReceivedHead) -> bytes:
    """Write the request head of a handoff, to its empty line.

    Raises:
        HandoffMalformed: a name or value cannot stand in a head.
    """
    environ = head.environ
    version = environ.get("SERVER_PROTOCOL", "HTTP/1.1")
    line = f"{environ['REQUEST_METHOD']} {environ['REQUEST_URI']} {version}"
    if not _REQUEST.fullmatch(line):
        raise HandoffMalformed(f"expected a request line of HTTP/1, got {line[:64]!r}")
    fields = {
        name.removeprefix(_PREFIX).replace("_", "-").title(): value
        for name, value in environ.items()
        if name.startswith(_PREFIX)
    }
    if head.is_single and "Upgrade" not in fields:
        fields["Connection"] = "close"
    lines = [line, *(_field(name, value) for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _field(name: str, value: str) -> str:
    if not _NAME.fullmatch(name) or _BREAKS.search(value):
        raise HandoffMalformed(f"expected a header field, got {name[:32]!r}: {value[:32]!r}")
    return f"{name}: {value}"
