"""The tree of exceptions: who is to blame, and what each carries."""

from __future__ import annotations

import inspect

import pytest

from ktlsgate import errors

TREE = {
    "RemoteProtocolError": "KtlsgateError",
    "HandshakeFailed": "RemoteProtocolError",
    "HeadRejected": "RemoteProtocolError",
    "FatalAlert": "RemoteProtocolError",
    "ConnectionCut": "RemoteProtocolError",
    "BadRecord": "RemoteProtocolError",
    "LocalProtocolError": "KtlsgateError",
    "ResourceShortage": "KtlsgateError",
    "KtlsUnavailable": "KtlsgateError",
    "CipherUnsupported": "KtlsUnavailable",
    "HandoffError": "KtlsgateError",
    "BackendUnavailable": "HandoffError",
    "BackendFailed": "HandoffError",
    "HandoffMalformed": "HandoffError",
    "ConfigError": "KtlsgateError",
}


def test_tree_is_exactly_this():
    found = {
        name: kind.__base__.__name__
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if kind.__module__ == errors.__name__
    }
    assert found == {"KtlsgateError": "Exception", **TREE}


def test_docstring_draws_the_same_tree():
    """Two spaces of the drawing per level; a parent is the last name one level up."""
    drawn, path = {}, {}
    for line in errors.__doc__.splitlines():
        name = next((word for word in line.split() if word in TREE), None)
        if name is None or not line.lstrip().startswith(("│", "├", "└")):
            continue
        level = line.index(name)
        parents = [path[column] for column in sorted(path) if column < level]
        drawn[name] = parents[-1] if parents else "KtlsgateError"
        path = {column: value for column, value in path.items() if column < level}
        path[level] = name
    assert drawn == TREE


@pytest.mark.parametrize(
    ("error", "text", "values"),
    [
        (errors.HandshakeFailed("no_shared_cipher", "why"), "why", {"reason": "no_shared_cipher"}),
        (errors.HeadRejected(431, "too big"), "too big", {"status": 431, "reason": "too big"}),
        (errors.FatalAlert(40, "an alert"), "an alert", {"description": 40}),
        (errors.BadRecord(74, "a tag"), "a tag", {"errno": 74}),
        (errors.KtlsUnavailable(2, "no module"), "no module", {"errno": 2}),
        (errors.CipherUnsupported(22, "no cipher"), "no cipher", {"errno": 22}),
        (errors.HandoffError("r", "why"), "why", {"reason": "r", "status": 502}),
        (errors.BackendUnavailable("absent", "why"), "why", {"reason": "absent", "status": 503}),
        (errors.BackendFailed("died", "why"), "why", {"reason": "died", "status": 502}),
        (errors.HandoffMalformed("why"), "why", {"reason": "malformed", "status": 502}),
        (errors.ConfigError("one"), "one", {"errors": ("one",)}),
        (errors.ConfigError("one", "two"), "one\ntwo", {"errors": ("one", "two")}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_error_carries_its_values_beside_its_text(error, text, values):
    assert str(error) == text
    assert {name: getattr(error, name) for name in values} == values
