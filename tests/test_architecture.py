"""The shape of the package: who may import whom, how large things get, where tests stand.

Rooms look down only, and the wire room only computes. Edit the tables, not the tests.
"""

from __future__ import annotations

import ast
import graphlib
import pathlib
import re
import sys

import pytest

import ktlsgate

ROOT = pathlib.Path(ktlsgate.__file__).parent  # the wheel's, when that is what is tested
TESTS = pathlib.Path(__file__).parent

LEAVES = {"errors", "config", "metrics"}  # plain values: every room may import them

MAY_IMPORT = {  # room -> rooms below it
    "wire": set(),
    "kernel": {"wire"},
    "gate": {"wire", "kernel"},
    "backend": {"wire", "kernel"},
    "service": {"wire", "kernel", "gate"},
}

# Imports that the table above does not allow, each with its reason.
_SERVE = "``ktlsgate serve`` starts a backend"
MAY_ALSO_IMPORT = {
    ("service.cli", "__version__"): "``ktlsgate --version`` and the help say it",
    ("service.serve", "backend"): _SERVE,
}

THIRD_PARTY = {  # room -> what it may import that is not in the standard library
    "wire": {"cryptography", "OpenSSL"},
    "kernel": set(),
    "gate": {"trio", "OpenSSL"},
    "backend": {"trio"},
    "service": {"trio", "cryptography", "OpenSSL", "idna"},
}

_DEMO = "the demo is an example of the receiving side, with an extra of its own"
_PROBE = "imported inside functions: the probe tells what of it works, or that it is absent"
_TYPES = "the type checker's own names for buffers; never imported when it runs"
_SERVER = "the server that is run, with an extra of its own"
ALSO_THIRD_PARTY = {
    ("backend.client_socket", "_typeshed"): _TYPES,
    ("backend.hypercorn_trio", "hypercorn"): _SERVER,
    ("service.serve", "hypercorn"): _SERVER,
    ("service.serve", "uvicorn"): _SERVER,
    ("backend.demo_app", "h11"): _DEMO,
    ("backend.demo_app", "wsproto"): _DEMO,
    ("backend.demo_http", "h11"): _DEMO,
    ("backend.demo_websocket", "h11"): _DEMO,
    ("backend.demo_websocket", "wsproto"): _DEMO,
    ("kernel.engines", "OpenSSL"): _PROBE,
    ("kernel.engines", "cryptography"): _PROBE,
    ("kernel.openssl_probe", "OpenSSL"): _PROBE,
    ("kernel.openssl_probe", "cryptography"): _PROBE,
}

# Of the standard library, what does I/O, reads clocks or starts things: nothing for wire.
IMPURE = {
    "asyncio", "concurrent", "fcntl", "io", "logging", "multiprocessing", "os", "pathlib",
    "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "socketserver",
    "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib",
}  # fmt: skip

# Modules without a test module of their own name: where their tests are, and why there.
_FLAVOURS = "one suite runs the Trio and the blocking flavour alike"
_PIECES = "pieces of one demo, tested as a client meets it"
_REPORT = "the report is asserted whole, as text and as JSON"
_CHECK = "what the check saw is shown as text and as JSON"
_SESSION = "a session is the only way through it: real sockets, a fake backend"
_RELAY = "one suite for all that a relay consists of: real sockets, every end"
TESTED_ELSEWHERE = {
    "backend.arrival": ("backend/test_receiver.py", "a receiver is what drives arrivals"),
    "backend.blocking_connection": ("backend/test_connection.py", _FLAVOURS),
    "backend.blocking_listener": ("backend/test_receiver.py", _FLAVOURS),
    "backend.client_output": ("backend/test_connection.py", _FLAVOURS),
    "backend.serving": ("backend/test_receiver.py", _FLAVOURS),
    "backend.verdict": ("backend/test_client_input.py", "a verdict is how input ends"),
    "backend.demo_app": ("backend/test_demo.py", _PIECES),
    "backend.demo_file": ("backend/test_demo.py", _PIECES),
    "backend.demo_http": ("backend/test_demo.py", _PIECES),
    "backend.demo_pages": ("backend/test_demo.py", _PIECES),
    "backend.demo_websocket": ("backend/test_demo.py", _PIECES),
    "gate.flow": ("gate/test_relay.py", _RELAY),
    "gate.handlers": ("gate/test_relay.py", _RELAY),
    "gate.patience": ("gate/test_client.py", "lingering is what needs patience"),
    "gate.relay_both": ("gate/test_relay.py", _RELAY),
    "gate.relay_input": ("gate/test_relay.py", _RELAY),
    "gate.context": ("gate/test_session.py", _SESSION),
    "gate.disposal": ("gate/test_session.py", _SESSION),
    "gate.states": ("gate/test_session.py", _SESSION),
    "gate.verdict": ("gate/test_session.py", _SESSION),
    "service.listen_check_report": ("service/test_listen_check.py", _CHECK),
    "service.probe_advice": ("service/test_probe_report.py", _REPORT),
    "service.probe_findings": ("service/test_probe_report.py", _REPORT),
    "service.serve_options": ("service/test_serve.py", "options and what they start"),
    "service.probe_text": ("service/test_probe_report.py", _REPORT),
}

MAX_MODULE = 400  # lines
MAX_FUNCTION = 40  # lines without the docstring
MAX_COMPLEXITY = 10  # 1 + branches, loops, handlers, boolean operators, cases

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
ORDINARY = sorted(name for name in MODULES if "__" not in name)

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_BRANCHES = (
    ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler,
    ast.IfExp, ast.Assert, ast.comprehension, ast.match_case,
)  # fmt: skip


def imports(name: str) -> list[str]:
    """Imports of a module at any depth; those inside the package start with a dot."""
    package = name.split(".")[:-1]
    found = []
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found += [node.module]
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1]
            parts += node.module.split(".") if node.module else []
            found += ["." + ".".join([*parts, alias.name]) for alias in node.names]
    return found


def owner(target: str) -> str | None:
    """The module that a dotted import of ours lands in."""
    parts = target.lstrip(".").split(".")
    candidates = (".".join(parts[: len(parts) - i]) for i in (0, 1))
    return next((name for name in candidates if name in MODULES), None)


def functions(name: str):
    return [node for node in ast.walk(TREES[name]) if isinstance(node, _FUNCTIONS)]


def length(function) -> int:
    docstring = ast.get_docstring(function, clean=False) or ""
    lines = function.end_lineno - function.lineno + 1
    return lines - len(docstring.splitlines())


def complexity(function) -> int:
    return 1 + sum(
        len(node.values) - 1 if isinstance(node, ast.BoolOp) else isinstance(node, _BRANCHES)
        for node in ast.walk(function)
    )


# The import law


@pytest.mark.parametrize("name", ORDINARY)
def test_module_looks_down_only(name):
    room = name.split(".")[0]
    allowed = {"errors"} if room in LEAVES else {room} | LEAVES | MAY_IMPORT[room]
    allowed |= {found for (module, found) in MAY_ALSO_IMPORT if module == name}
    for target in imports(name):
        if target.startswith("."):
            top = target.lstrip(".").split(".")[0]
            assert top in allowed, f"{name} may not look at {target}"


@pytest.mark.parametrize("name", ORDINARY)
def test_module_imports_the_package_relatively(name):
    assert not [target for target in imports(name) if target.split(".")[0] == "ktlsgate"]


@pytest.mark.parametrize("name", ORDINARY)
def test_module_needs_only_its_rooms_libraries(name):
    allowed = THIRD_PARTY.get(name.split(".")[0], set())
    allowed = allowed | {found for (module, found) in ALSO_THIRD_PARTY if module == name}
    tops = {target.split(".")[0] for target in imports(name) if not target.startswith(".")}
    assert tops - sys.stdlib_module_names <= allowed


@pytest.mark.parametrize("name", [name for name in ORDINARY if name.startswith("wire.")])
def test_wire_only_computes(name):
    tops = {target.split(".")[0] for target in imports(name) if not target.startswith(".")}
    assert not tops & IMPURE, f"{name} does I/O"
    awaits = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)
    assert not [node for node in ast.walk(TREES[name]) if isinstance(node, awaits)]
    called = {
        n.func.id
        for n in ast.walk(TREES[name])
        if isinstance(n, ast.Call) and hasattr(n.func, "id")
    }
    assert not called & {"open", "print", "input"}


def test_no_two_modules_import_each_other():
    graph = {
        name: {
            found
            for target in imports(name)
            if target.startswith(".") and (found := owner(target)) not in (None, name)
        }
        for name in MODULES
    }
    assert {"wire.handshake", "gate.fibers"} <= graph["gate.handshake"], "imports are found at all"
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError and shows the cycle


def test_rooms_own_modules_import_nothing():
    """So that the receiving side stays as light as what it uses."""
    assert [name for name in MODULES if name.endswith("__init__") and imports(name)] == []


def test_rooms_are_those_of_the_map():
    rooms = {name.split(".")[0] for name in ORDINARY if "." in name}
    assert rooms == set(MAY_IMPORT) == set(THIRD_PARTY)
    assert {name for name in ORDINARY if "." not in name} == LEAVES
    assert all(f"``{room}``" in ktlsgate.__doc__ for room in rooms)


# Sizes and texts


@pytest.mark.parametrize("name", sorted(MODULES))
def test_module_opens_with_its_docstring(name):
    assert ast.get_docstring(TREES[name]), f"{name} does not say what it is"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_module_is_one_concept_long(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= MAX_MODULE


@pytest.mark.parametrize("name", sorted(MODULES))
def test_functions_are_short_and_straight(name):
    too_long = {f.name: length(f) for f in functions(name) if length(f) > MAX_FUNCTION}
    too_winding = {f.name: complexity(f) for f in functions(name) if complexity(f) > MAX_COMPLEXITY}
    assert too_long == {}
    assert too_winding == {}


@pytest.mark.parametrize("name", ORDINARY)
def test_module_says_what_is_public(name):
    """``__all__`` is sorted by ruff; here: it is there, and names what exists."""
    assigned = [
        node.value
        for node in TREES[name].body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    assert len(assigned) == 1
    names = ast.literal_eval(assigned[0])
    assert len(set(names)) == len(names)
    assert not [public for public in names if public.startswith("_")]


# Tests


@pytest.mark.parametrize("name", ORDINARY)
def test_module_has_its_test_module(name):
    *rooms, module = name.split(".")
    where = TESTS.joinpath(*rooms) / f"test_{module}.py"
    if not where.exists():
        assert name in TESTED_ELSEWHERE, f"{name} has no tests"
        where = TESTS / TESTED_ELSEWHERE[name][0]
    assert where.exists()


@pytest.mark.parametrize("table", [MAY_ALSO_IMPORT, ALSO_THIRD_PARTY, TESTED_ELSEWHERE])
def test_exceptions_are_about_modules_that_exist(table):
    for key, reason in table.items():
        assert (key[0] if isinstance(key, tuple) else key) in MODULES
        assert reason


def test_properties_are_tried_with_the_same_examples_each_time():
    """Through one helper, which also knows what to do where hypothesis is not installed."""
    importing = [
        str(path.relative_to(TESTS))
        for path in sorted(TESTS.rglob("*.py"))
        if re.search(r"^\s*(?:import|from) hypothesis\b", path.read_text(), re.MULTILINE)
    ]
    assert importing == ["helpers/properties.py"]
