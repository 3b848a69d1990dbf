"""What an application is told of the connection behind a request, in ASGI's and WSGI's words.

A server behind the gate takes itself for a plain one: it says ``http``. The gate said
what is true, and here it is put where applications look for it:

- ASGI: ``scheme`` (``https``, ``wss``), ``client``, and under TLS the extension ``tls``
  (https://asgi.readthedocs.io/en/stable/specs/tls.html): ``tls_version``, ``cipher_suite``,
  ``client_cert_chain`` (the leaf alone: that is what is handed over), ``client_cert_name``
  and ``client_cert_error``. ``server_cert`` is None, for nobody tells it.
- WSGI: ``wsgi.url_scheme``, ``REMOTE_ADDR``, ``REMOTE_PORT``, ``HTTPS`` and mod_ssl's
  ``SSL_*``. The same names from elsewhere are removed: nothing else may say them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["tell_asgi", "tell_wsgi"]

_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
_SECURE = {"http": "https", "https": "https", "ws": "wss", "wss": "wss"}
# By OpenSSL's names: https://www.iana.org/assignments/tls-parameters. Absent ones are None.
_CIPHER_SUITES = {
    "TLS_AES_128_GCM_SHA256": 0x1301,
    "TLS_AES_256_GCM_SHA384": 0x1302,
    "TLS_CHACHA20_POLY1305_SHA256": 0x1303,
    "TLS_AES_128_CCM_SHA256": 0x1304,
    "TLS_AES_128_CCM_8_SHA256": 0x1305,
    "AES128-GCM-SHA256": 0x009C,
    "AES256-GCM-SHA384": 0x009D,
    "DHE-RSA-AES128-GCM-SHA256": 0x009E,
    "DHE-RSA-AES256-GCM-SHA384": 0x009F,
    "ECDHE-ECDSA-AES128-GCM-SHA256": 0xC02B,
    "ECDHE-ECDSA-AES256-GCM-SHA384": 0xC02C,
    "ECDHE-RSA-AES128-GCM-SHA256": 0xC02F,
    "ECDHE-RSA-AES256-GCM-SHA384": 0xC030,
    "AES128-CCM": 0xC09C,
    "DHE-RSA-AES128-CCM": 0xC09E,
    "ECDHE-ECDSA-AES128-CCM": 0xC0AC,
    "ECDHE-RSA-CHACHA20-POLY1305": 0xCCA8,
    "ECDHE-ECDSA-CHACHA20-POLY1305": 0xCCA9,
    "DHE-RSA-CHACHA20-POLY1305": 0xCCAA,
}
_NOTHING_WRONG = {"SUCCESS", "NONE"}


def tell_asgi(scope: Mapping[str, Any], facts: Mapping[str, str]) -> dict[str, Any]:
    """Make a request's scope what it would be on a server that does TLS itself.

    Args:
        scope: the server's, of type ``http`` or ``websocket``; left as it is.
        facts: the handoff's names and values.
    """
    told = dict(scope)
    told["client"] = (facts["REMOTE_ADDR"], int(facts["REMOTE_PORT"]))
    if "HTTPS" in facts:
        told["scheme"] = _SECURE.get(scope.get("scheme", "http"), "https")
        told["extensions"] = {**(scope.get("extensions") or {}), "tls": _tls_extension(facts)}
    return told


def tell_wsgi(environ: Mapping[str, Any], facts: Mapping[str, str]) -> dict[str, Any]:
    """Make a request's environment what it would be on a server that does TLS itself."""
    told = {name: value for name, value in environ.items() if not _is_about_tls(name)}
    told["REMOTE_ADDR"], told["REMOTE_PORT"] = facts["REMOTE_ADDR"], facts["REMOTE_PORT"]
    told["wsgi.url_scheme"] = "https" if "HTTPS" in facts else "http"
    return told | {name: value for name, value in facts.items() if _is_about_tls(name)}


def _is_about_tls(name: str) -> bool:
    return name == "HTTPS" or name.startswith("SSL_")


def _tls_extension(facts: Mapping[str, str]) -> dict[str, Any]:
    verdict = facts.get("SSL_CLIENT_VERIFY", "NONE")
    certificate = facts.get("SSL_CLIENT_CERT")
    return {
        "server_cert": None,
        "client_cert_chain": [certificate] if certificate else [],
        "client_cert_name": facts.get("SSL_CLIENT_S_DN"),
        "client_cert_error": None if verdict in _NOTHING_WRONG else verdict,
        "tls_version": _VERSIONS.get(facts.get("SSL_PROTOCOL", "")),
        "cipher_suite": _CIPHER_SUITES.get(facts.get("SSL_CIPHER", "")),
    }
