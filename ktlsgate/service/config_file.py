"""TOML text, or flags of the command line, to `config.Config`; all mistakes at once.

Theory: one table says which keys a TOML table may have and which reader
(`config_values`, `config_names`) takes each value. What the table accepts goes
straight into the dataclass of the same name; a key that is absent is not passed
on, so every default is the dataclass's own. Flags are written into the raw
document before it is read: they win over the file, and the same readers check
them. Where a complaint belongs is looked up last: the flag, or else the line
of the key, or else of the nearest table around it.

Invariant: a `Config` that comes out of here has been checked; nobody asks again
whether a path starts with a slash. Only what lies in other files (certificates)
and what OpenSSL must say (cipher names) is left.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import config
from ..errors import ConfigError
from . import config_names as names
from . import config_values as values
from .config_engines import check_engines
from .config_flags import Flags, put_flags
from .config_routes import check_routes
from .config_source import Shape, Source
from .toml_lines import KeyPath, key_lines

__all__ = ["Flags", "config_from_flags", "load_config", "parse_config"]

_KTLS = values.enumerated(config.KtlsPolicy)
_OFFLOAD = values.enumerated(config.Offload)
_VERSIONS = ("TLSv1.2", "TLSv1.3")  # in this order
_LIMITS = Shape(
    place="[limits]",
    fields={
        "max_connections": values.count(),
        "handshake_timeout": values.duration,
        "header_timeout": values.duration,
        "handoff_timeout": values.duration,
        "relay_idle_timeout": values.duration,
        "max_header_bytes": values.size,
        "max_header_count": values.count(),
        "max_handshake_bytes": values.size,
    },
)
_LISTEN = Shape(
    place="[[listen]]",
    fields={
        "address": names.listen_address,
        "tls": values.boolean,
        "ktls": _KTLS,
        "engine": values.enumerated(config.EngineChoice),
        "offload": _OFFLOAD,
        "backlog": values.count(),
    },
    required=("address",),
)
_ROUTE = Shape(
    place="[[route]]",
    fields={
        "host": names.host_patterns,
        "path": names.route_path,
        "backend": values.plain_text,
        "keepalive": values.enumerated(config.Keepalive),
        "offload": _OFFLOAD,
        "share_secrets": values.boolean,
    },
    required=("backend",),
)
# In log lines and messages a name must stand without quotes.
_BACKEND_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def _top(folder: str) -> Shape:
    return Shape(
        place="the top of the file",
        fields={
            "ktls": _KTLS,
            "drain_timeout": values.duration,
            "log_level": values.one_of("debug", "info", "warning", "error"),
            "log_format": values.enumerated(config.LogFormat),
            "log_file": values.log_file(folder),
        },
        elsewhere=("limits", "tls", "cert", "listen", "route", "backend"),
    )


def _tls(folder: str) -> Shape:
    version = values.one_of(*_VERSIONS)
    return Shape(
        place="[tls]",
        fields={
            "min_version": version,
            "max_version": version,
            "ciphers": values.plain_text,
            "ciphersuites": values.plain_text,
            "alpn": values.alpn,
            "tickets": values.boolean,
            "client_verify": values.enumerated(config.ClientVerify),
            "client_ca": values.file_path(folder),
        },
    )


def _certificate(folder: str) -> Shape:
    path = values.file_path(folder)
    return Shape(place="[[cert]]", fields={"file": path, "key": path}, required=("file",))


def _backend(folder: str) -> Shape:
    return Shape(
        place="[backend.NAME]",
        fields={
            "address": values.backend_addresses(folder),
            "dialect": values.enumerated(config.Dialect),
            "peer_uid": values.peer_uid,
            "kept_connections": values.count(0),
            "rx_fallback": values.enumerated(config.RxFallback),
            "fail_timeout": values.duration,
            "absence_timeout": values.duration,
        },
        required=("address",),
    )


def _homes() -> dict[str, list[str]]:
    """Where each key belongs: a key below the wrong header is TOML's most common trap."""
    shapes = (_top(""), _LIMITS, _tls(""), _certificate(""), _LISTEN, _ROUTE, _backend(""))
    homes: dict[str, list[str]] = {}
    for shape in shapes:
        for key in shape.fields:
            homes.setdefault(key, []).append(shape.place)
    return homes


def load_config(path: str | os.PathLike[str], *, flags: Flags | None = None) -> config.Config:
    """Read a configuration file.

    Args:
        path: the file; relative names in it are taken from its folder.
        flags: what wins over the file.

    Raises:
        ConfigError: the file cannot be read, or with every mistake in it.
    """
    name = os.fspath(path)
    try:
        text = Path(name).read_bytes().decode("utf-8")
    except OSError as exc:
        why = exc.strerror or str(exc)
        raise ConfigError(f"{name}: expected a readable file, got: {why}") from exc
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        byte = exc.object[exc.start]
        raise ConfigError(f"{name}:{line}: expected UTF-8, got the byte {byte:#04x}") from exc
    folder = os.path.dirname(os.path.abspath(name))  # noqa: PTH100, PTH120  # links stay links
    return parse_config(text, name=name, folder=folder, flags=flags)


def parse_config(text: str, *, name: str, folder: str, flags: Flags | None = None) -> config.Config:
    """Read a configuration from TOML text.

    Args:
        text: the document.
        name: the file's name as complaints show it.
        folder: where relative file names start; absolute.
        flags: what wins over the text.

    Raises:
        ConfigError: with every mistake in it, in the order of the lines.
    """
    try:
        document = tomllib.loads(text)
        lines = key_lines(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(_syntax_error(name, text, exc)) from exc
    return _build(
        Source(name=name, document=document, lines=lines, folder=folder, homes=_homes()), flags
    )


def config_from_flags(flags: Flags) -> config.Config:
    """Make a configuration of flags alone: one backend that gets every request.

    Raises:
        ConfigError: with every mistake in them.
    """
    source = Source(
        name="command line", document={}, lines={}, folder=str(Path.cwd()), homes=_homes()
    )
    return _build(source, flags)


def _syntax_error(name: str, text: str, exc: Exception) -> str:
    if isinstance(exc, RecursionError):
        return f"{name}: expected TOML, got arrays or tables nested too deeply"
    message = str(exc)
    if match := re.fullmatch(r"(.*) \(at line ([0-9]+), column ([0-9]+)\)", message, re.DOTALL):
        message, line, where = match[1], match[2], f" (column {match[3]})"
    else:
        # At the end of the document; a number too long for int() has no place at all.
        message = message.removesuffix(" (at end of document)")
        line, where = str(max(1, len(text.splitlines()))), ""
    return f"{name}:{line}: expected TOML, got: {message.splitlines()[0]}{where}"


def _build(source: Source, flags: Flags | None) -> config.Config:
    if flags is not None:
        put_flags(source, flags)
    top = source.read((), source.document, _top(source.folder))
    limits = source.read(("limits",), source.document.get("limits", {}), _LIMITS)
    if "drain_timeout" in top:
        limits["drain_timeout"] = top["drain_timeout"]
    logging = {key: top[f"log_{key}"] for key in ("level", "format", "file") if f"log_{key}" in top}
    listeners = tuple(_read_listeners(source, top))
    routes = tuple(_read_routes(source, _read_backends(source)))
    for index, text in check_engines(listeners, routes):
        source.complain(("listen", index, "engine"), text)
    built = config.Config(
        listeners=listeners,
        routes=routes,
        certificate=_read_certificate(source),
        tls=_read_tls(source),
        limits=config.Limits(**limits),
        logging=config.Logging(**logging),
    )
    source.raise_complaints()
    return built


def _read_listeners(source: Source, top: dict[str, Any]) -> Iterator[config.Listener]:
    _need_one(source, "listen", "[[listen]] table or --listen")
    default = {"ktls": top["ktls"]} if "ktls" in top else {}
    seen: dict[tuple[str, int], int] = {}
    needs_certificate = "cert" not in source.document
    for number, (path, found) in enumerate(source.read_list("listen", _LISTEN), 1):
        if "address" not in found:
            continue
        listener = config.Listener(**default | found)
        host, port = names.split_address(listener.address)
        first = seen.setdefault((host, port), number)
        if first != number and port:  # the kernel picks another port for each 0
            text = f"expected each address once, got the one of listener {first} again"
            source.complain((*path, "address"), text)
        if listener.tls and needs_certificate:
            needs_certificate = False  # one complaint says it all
            text = "expected a [[cert]] table or --cert for a listener with tls = true, got none"
            source.complain(path, text)
        yield listener


def _need_one(source: Source, name: str, what: str) -> None:
    if source.document.get(name, []) == []:
        source.complain((name,), f"expected at least one {what}, got none")


def _read_certificate(source: Source) -> config.Certificate | None:
    found = list(source.read_list("cert", _certificate(source.folder)))
    if len(found) > 1:
        source.complain(
            ("cert", 1),
            f"expected one [[cert]], got {len(found)}: several certificates are not supported yet",
        )
    if not found or "file" not in found[0][1]:
        return None
    return config.Certificate(**found[0][1])


def _read_tls(source: Source) -> config.Tls:
    raw = source.document.get("tls", {})
    tls = config.Tls(**source.read(("tls",), raw, _tls(source.folder)))
    if not isinstance(raw, dict):
        return tls
    if _VERSIONS.index(tls.min_version) > _VERSIONS.index(tls.max_version):
        text = f'expected at most max_version "{tls.max_version}", got "{tls.min_version}"'
        source.complain(("tls", "min_version"), text)
    is_asked = tls.client_verify is not config.ClientVerify.NONE
    if is_asked and "client_ca" not in raw:
        text = f'expected client_ca beside "{tls.client_verify.value}", got none'
        source.complain(("tls", "client_verify"), text)
    # An operator who names authorities believes that clients are being verified.
    if tls.client_ca and not is_asked and raw.get("client_verify", "none") == "none":
        text = 'expected client_verify = "optional" or "required" beside it, got "none"'
        source.complain(("tls", "client_ca"), text)
    return tls


def _read_backends(source: Source) -> dict[str, config.Backend]:
    raw = source.document.get("backend", {})
    if not isinstance(raw, dict):
        source.complain(("backend",), f"expected tables [backend.NAME], got {values.came(raw)}")
        return {}
    backends = {}
    for name, table in raw.items():
        path = ("backend", name)
        if not _BACKEND_NAME.fullmatch(name):
            what = 'a name of at most 64 letters, digits, "_", "-" and "."'
            source.complain(path, f"expected {what}, got {values.quote(name)}")
        found = source.read(path, table, _backend(source.folder))
        if found.get("kept_connections") and found.get("dialect") is config.Dialect.NGINX:
            text = 'expected 0 beside dialect = "nginx", which carries one handoff a connection'
            source.complain((*path, "kept_connections"), f"{text}, got {found['kept_connections']}")
        # Known by name even if its address is wrong: one mistake, one complaint.
        backends[name] = config.Backend(addresses=found.pop("address", ("",)), name=name, **found)
    return backends


def _read_routes(source: Source, backends: dict[str, config.Backend]) -> Iterator[config.Route]:
    _need_one(source, "route", "[[route]] table or --backend")
    routes = []
    for path, found in source.read_list("route", _ROUTE):
        backend = _find_backend(source, path, found.pop("backend", ""), backends)
        raw = source.document["route"][path[1]]
        if not isinstance(raw, dict) or any(k in raw and k not in found for k in ("host", "path")):
            found["host"] = ()  # a route that cannot be read hides no other
        if "host" in found:
            found["hosts"] = found.pop("host")
        routes.append(config.Route(**found, backend=backend))
    for index, key, text in check_routes(routes):
        source.complain(("route", index, key) if key else ("route", index), text)
    yield from routes


def _find_backend(
    source: Source, path: KeyPath, name: str, backends: dict[str, config.Backend]
) -> config.Backend:
    """Find a route's backend by its name; one without an address where there is none."""
    if name and name not in backends:
        text = f"expected the name of a [backend.NAME] table, got {values.quote(name)}"
        source.complain((*path, "backend"), text + values.nearest(name, backends))
    return backends.get(name, config.Backend(name=name, addresses=("",)))
