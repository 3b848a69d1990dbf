"""The README is the documentation, so what it says is checked against the code."""

import ast
import dataclasses
import importlib
import pathlib
import re
import tomllib

import pytest

from ktlsgate import config
from ktlsgate.gate.states import TRANSITIONS, State
from ktlsgate.service.config_file import parse_config
from ktlsgate.service.probe_require import parse_requirements
from ktlsgate.wire.handoff import Mode

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_first_sentence_says_what_it_is_for():
    assert README.splitlines()[2].startswith("The TLS front end that gets out of the way")


def test_the_example_configuration_is_read_without_complaint(tmp_path):
    (text,) = blocks("toml")
    text = text.replace('"chat"                   # only', '"root"  # only')
    assert tomllib.loads(text)
    parsed = parse_config(text, name="ktlsgate.toml", folder=tmp_path)
    assert [route.backend.name for route in parsed.routes] == ["chat", "site"]


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(config.Limits)])
def test_every_limit_is_documented(field):
    assert f"`{field}`" in README


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(config.Tls)])
def test_every_tls_setting_is_documented(field):
    assert f"`{field}`" in README


@pytest.mark.parametrize(
    "default", ["10000", "`10s`, `10s`, `5s`", "`10m`", "32768, 100", "131072"]
)
def test_the_documented_limits_are_the_defaults(default):
    limits = config.Limits()
    spelled = {
        "10000": limits.max_connections == 10_000,
        "`10s`, `10s`, `5s`": (
            limits.handshake_timeout, limits.header_timeout, limits.handoff_timeout,
        ) == (10, 10, 5),
        "`10m`": limits.relay_idle_timeout == 600,
        "32768, 100": (limits.max_header_bytes, limits.max_header_count) == (32_768, 100),
        "131072": limits.max_handshake_bytes == 131_072,
    }  # fmt: skip
    assert default in README
    assert spelled[default]


@pytest.mark.parametrize("mode", [mode.value for mode in Mode])
def test_every_mode_has_its_row(mode):
    assert f"| `{mode}` |" in README


@pytest.mark.parametrize("state", list(State))
def test_every_state_stands_in_the_drawing(state):
    assert state.name in README
    assert state in TRANSITIONS


def test_the_example_backend_is_python_and_imports_what_exists():
    (text,) = blocks("python")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("ktlsgate"):
            module = __import__(node.module, fromlist=["*"])
            assert all(hasattr(module, alias.name) for alias in node.names)


def test_the_two_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("run", "test"):
        assert f"make {target}\n" in README
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_probes_json_is_described_where_the_readme_says():
    for path in ("ktlsgate/service/probe_json.py", "ktlsgate/service/listen_check_report.py"):
        assert f"`{path}`" in README
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        assert '``"schema": 1``' in module.__doc__


def test_the_names_that_can_be_required_are_names():
    (list_,) = re.findall(r"^`--require` takes (.*?)\. Every", README, re.DOTALL | re.MULTILINE)
    names = re.findall(r"`([^`]+)`", list_)
    assert parse_requirements(",".join(names)).names == tuple(names)
    (example,) = re.findall(r"probe --require (\S+)", README)
    assert parse_requirements(example)


def test_the_probes_file_is_a_target_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    assert "make probe-file" in README
    assert re.search(r"^probe-file:", makefile, re.MULTILINE)
