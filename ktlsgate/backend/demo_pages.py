"""What the demo shows on its front page: everything that a backend is told."""

from __future__ import annotations

from html import escape

from .trio_connection import ClientConnection

__all__ = ["describe", "front_page"]

_HTML = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>ktlsgate demo</title>
<h1>ktlsgate demo backend</h1>
<table>{facts}</table>
<h2>What the handoff said</h2>
<table>{environ}</table>
</html>
"""


def describe(stream: ClientConnection) -> list[tuple[str, str]]:
    """Name the facts of a connection; those about kTLS were asked from the kernel."""
    environ = stream.environ
    address, port = stream.remote
    tls = f"{environ.get('SSL_PROTOCOL', 'yes')} {environ.get('SSL_CIPHER', '')}".rstrip()
    return [
        ("mode", stream.mode.value),
        ("keepalive", stream.keepalive),
        ("tls", tls if environ.get("HTTPS") == "on" else "none"),
        ("kernel encrypts", _yes(answer=stream.is_ktls_tx)),
        ("kernel decrypts", _yes(answer=stream.is_ktls_rx)),
        ("client", f"{address} port {port}"),
    ]


def front_page(stream: ClientConnection, accept: str) -> tuple[str, str]:
    """Write the front page.

    Args:
        stream: whose facts to show.
        accept: the request's Accept header; one that begins with text/html gets HTML.

    Returns:
        The content type and the page.
    """
    facts, environ = describe(stream), list(stream.environ.items())
    if accept.lower().startswith("text/html"):
        return "text/html; charset=utf-8", _HTML.format(facts=_rows(facts), environ=_rows(environ))
    lines = ["ktlsgate demo backend", "", *(f"{name}: {value}" for name, value in facts), ""]
    return "text/plain; charset=utf-8", "\n".join(
        [*lines, *(f"{name}={value}" for name, value in environ), ""]
    )


def _yes(*, answer: bool) -> str:
    return "yes" if answer else "no"


def _rows(pairs: list[tuple[str, str]]) -> str:
    return "\n".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in pairs
    )
