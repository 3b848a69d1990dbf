"""The JSON: its tree is pinned, for other people's programs read it."""

from __future__ import annotations

import json

from helpers.findings import BARE, ENOENT, NOT_LOADED, findings, without

from ktlsgate.kernel.features import FeatureName
from ktlsgate.service import probe_json
from ktlsgate.service.probe_json import render_json
from ktlsgate.service.probe_report import main
from ktlsgate.service.probe_require import parse_requirements

OUTCOME = {"ok": bool, "errno": {str, type(None)}, "reason": str}
MAY_BE_OUTCOME = [OUTCOME, None]

# Schema 1. Adding a field is allowed, and is added here; nothing else is.
TREE = {
    "schema": int,
    "exit_code": int,
    "failure": str,
    "summary": str,
    "system": {
        "kernel": str,
        "build": str,
        "machine": str,
        "uid": int,
        "net_admin": {bool, type(None)},
        "first_user_namespace": {bool, type(None)},
        "seccomp": {int, type(None)},
        "available_ulps": {list, type(None)},
        "tls_module_loaded": {bool, type(None)},
        "tls_stat": bool,
        "container": bool,
        "capabilities": {str, type(None)},
        "tls_module_file": {bool, type(None)},
        "module_rules": (str,),
    },
    "ulp": OUTCOME,
    "ciphers": (
        {
            "version": str,
            "cipher": str,
            "offload": str,
            "tx": MAY_BE_OUTCOME,
            "rx": MAY_BE_OUTCOME,
            "data": MAY_BE_OUTCOME,
        },
    ),
    "features": {str: MAY_BE_OUTCOME},
    "counters": {"moved": [{str: int}, None], "proof": MAY_BE_OUTCOME},
    "openssl": {
        "library": str,
        "pyopenssl": str,
        "cryptography": str,
        "has_ktls": {bool, type(None)},
        "problem": str,
    },
    "engines": (
        {
            "engine": str,
            "version": str,
            "suite": str,
            "offload": str,
            "handshake": MAY_BE_OUTCOME,
            "tx": MAY_BE_OUTCOME,
            "rx": MAY_BE_OUTCOME,
            "data": MAY_BE_OUTCOME,
        },
    ),
    "modes": (
        {
            "version": str,
            "mode": str,
            "offload": str,
            "engine": {str, type(None)},
            "reason": str,
        },
    ),
    "comparisons": ({"version": str, "better": {str, type(None)}, "reason": str},),
    "advice": (str,),
    "python": {"version": str, "trio": str},
    "required": [{"names": (str,), "missing": ({"name": str, "reason": str},)}, None],
}


def assert_fits(value: object, tree: object, where: str = "report") -> None:
    """A dict has exactly these keys; a tuple is a list of such; a list is one of these."""
    if isinstance(tree, list):
        if value is not None:
            assert_fits(value, tree[0], where)
    elif isinstance(tree, dict) and set(tree) == {str}:
        assert isinstance(value, dict), where
        for key, each in value.items():
            assert_fits(each, tree[str], f"{where}.{key}")
    elif isinstance(tree, dict):
        assert list(value) == list(tree), where
        for key, each in value.items():
            assert_fits(each, tree[key], f"{where}.{key}")
    elif isinstance(tree, tuple):
        assert isinstance(value, list), where
        for each in value:
            assert_fits(each, tree[0], f"{where}[]")
    else:
        assert type(value) in (tree if isinstance(tree, set) else {tree}), where


def test_the_tree_is_that_of_schema_1() -> None:
    wanted = parse_requirements("rx,rekey")
    machines = [findings(), findings(openssl=BARE), without(ENOENT, available_ulps=None)]
    for found in machines:
        for required in (None, wanted):
            report = json.loads(render_json(found, required))
            assert_fits(report, TREE)
            assert report["schema"] == 1
    assert list(json.loads(render_json(findings()))["features"]) == [n.value for n in FeatureName]


def test_this_machines_report_fits_the_tree_too(capsys) -> None:
    main(["--json", "--require", "rx"])
    assert_fits(json.loads(capsys.readouterr().out), TREE)


def test_the_documentation_names_every_field() -> None:
    lines = probe_json.__doc__.split("::", 1)[1].splitlines()
    names = [n.split()[0] for n in lines if n.startswith("    ") and not n.startswith("     ")]
    assert names == list(TREE)
    for key, tree in TREE.items():
        rows = tree[0] if isinstance(tree, (tuple, list)) else tree
        if isinstance(rows, dict) and rows is not OUTCOME and set(rows) != {str}:
            for name in rows:
                assert name in probe_json.__doc__, f"{key}.{name}"


def test_the_counters_are_those_that_moved() -> None:
    assert json.loads(render_json(findings()))["counters"] == {
        "moved": {"TlsTxSw": 28, "TlsRxSw": 16},
        "proof": {"ok": True, "errno": None, "reason": ""},
    }
    assert json.loads(render_json(without(ENOENT)))["counters"] == {"moved": None, "proof": None}


def test_what_was_required_decides_the_exit_code() -> None:
    report = json.loads(render_json(without(ENOENT), parse_requirements("REKEY")))
    (missing,) = report["required"]["missing"]
    assert (report["exit_code"], missing["name"]) == (1, "rekey")
    assert report["required"]["names"] == ["REKEY"]
    assert json.loads(render_json(findings(), parse_requirements("rx")))["exit_code"] == 0


def test_values_in_json_are_those_found() -> None:
    report = json.loads(render_json(without(ENOENT, available_ulps=None)))
    assert report["exit_code"] == 3
    assert report["failure"] == ""
    assert report["summary"] == (
        "no kTLS here: relaying, because the tls module is not loaded, and this process may not"
        " load it: that takes CAP_NET_ADMIN in the first user namespace (ENOENT)"
    )
    assert report["ulp"]["errno"] == "ENOENT"
    assert report["system"]["available_ulps"] is None
    assert report["ciphers"] == []
    assert report["features"] == {}
    assert report["engines"][0]["data"] is None
    assert report["modes"][0]["mode"] == "relay"
    assert report["modes"][0]["engine"] is None
    assert report["comparisons"][0] == {"version": "TLSv1.3", "better": None, "reason": ""}
    assert report["system"]["capabilities"] == "0000000000000000"
    assert report["python"]["trio"] == "0.35.0"
    assert report["advice"] == [NOT_LOADED]


def test_json_is_one_ascii_line() -> None:
    text = render_json(findings(build="#1 Größe\n"))
    assert "\n" not in text
    assert text.isascii()
