"""What the engine ``openssl`` cannot do, and what an operator may ask of it all the same.

Theory: OpenSSL moves both keys into the kernel during the handshake, before any
request is known, and tells nobody its secrets. So one direction cannot be kept back,
nothing can depend on the route, and no backend can be given secrets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .. import config

__all__ = ["check_engines"]


def check_engines(
    listeners: Sequence[config.Listener], routes: Sequence[config.Route]
) -> Iterator[tuple[int, str]]:
    """Find listeners whose engine cannot do what is asked for.

    Args:
        listeners: in the order of the file.
        routes: all of them serve every listener.

    Yields:
        Index of the listener (from 0), and the complaint about its engine.
    """
    by_route = _asked_by_routes(routes)
    for index, listener in enumerate(listeners):
        if not listener.tls or listener.engine is not config.EngineChoice.OPENSSL:
            continue
        if listener.offload is config.Offload.TX:
            yield index, _complaint('offload = "tx"', "OpenSSL keeps no direction back")
        for what, why in by_route:
            yield index, _complaint(what, why)


def _asked_by_routes(routes: Sequence[config.Route]) -> list[tuple[str, str]]:
    asked = []
    for number, route in enumerate(routes, 1):
        if route.offload is not config.Offload.BOTH:
            what = f'route {number} with offload = "{route.offload.value}"'
            asked.append((what, "OpenSSL moves the keys before the request is known"))
        if route.share_secrets:
            what = f"route {number} with share_secrets = true"
            asked.append((what, "OpenSSL tells nobody its secrets"))
    return asked


def _complaint(beside: str, why: str) -> str:
    return f'expected "auto" or "direct" beside {beside}, got "openssl": {why}'
