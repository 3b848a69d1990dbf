"""A `config.Config` as TOML: what is in force, defaults and all.

Invariant: `config_file.parse_config` reads the text back to an equal value.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Iterator

from .. import config

__all__ = ["dump_config"]


def dump_config(value: config.Config) -> str:
    """Write a configuration as a document that would give the same one.

    Backends that no route names are not in a `Config` and so not in the text;
    what was said once for all listeners stands at each of them.
    """
    backends = {route.backend.name: route.backend for route in value.routes}
    blocks = [
        _top(value),
        _table("[limits]", _fields(value.limits, leave_out=("drain_timeout",))),
        _table("[tls]", _fields(value.tls)),
        *([_table("[[cert]]", _fields(value.certificate))] if value.certificate else []),
        *(_table("[[listen]]", _fields(listener)) for listener in value.listeners),
        *(_table("[[route]]", _route(route)) for route in value.routes),
        *(_table(f"[backend.{_key(name)}]", _backend(it)) for name, it in backends.items()),
    ]
    return "\n".join(blocks)


def _top(value: config.Config) -> str:
    fields = {f"log_{name}": item for name, item in _fields(value.logging)}
    fields["drain_timeout"] = value.limits.drain_timeout
    return _table("", iter(fields.items()))


def _route(route: config.Route) -> Iterator[tuple[str, object]]:
    yield "host", route.hosts
    yield "path", route.path
    yield "backend", route.backend.name
    yield "keepalive", route.keepalive
    yield "offload", route.offload
    yield "share_secrets", route.share_secrets


def _backend(backend: config.Backend) -> Iterator[tuple[str, object]]:
    addresses = tuple(f"unix:{address}" for address in backend.addresses)
    yield "address", addresses if len(addresses) > 1 else addresses[0]
    yield from _fields(backend, leave_out=("name", "addresses"))


def _fields(
    value: config.Limits
    | config.Tls
    | config.Certificate
    | config.Listener
    | config.Backend
    | config.Logging,
    leave_out: tuple[str, ...] = (),
) -> Iterator[tuple[str, object]]:
    for field in dataclasses.fields(value):
        if field.name not in leave_out:
            yield field.name, getattr(value, field.name)


def _table(header: str, fields: Iterator[tuple[str, object]]) -> str:
    lines = [header] if header else []
    # "" and None are "not given": no key can be set to them.
    lines += [f"{_key(name)} = {_value(item)}" for name, item in fields if item not in ("", None)]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() else _value(name)


def _value(value: object) -> str:
    if isinstance(value, enum.Enum):
        return _value(value.value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which JSON lets through.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"{value}"
