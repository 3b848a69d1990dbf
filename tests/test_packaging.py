"""The package as it is installed: its own files, its version, its type marker."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import tomllib

import pytest

import ktlsgate

HERE = pathlib.Path(__file__).parents[1]
PACKAGE = pathlib.Path(ktlsgate.__file__).parent
PYPROJECT = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.skipif(
    os.environ.get("KTLSGATE_EXPECT_WHEEL") != "1", reason="KTLSGATE_EXPECT_WHEEL is not 1"
)
def test_what_is_tested_is_the_wheel():
    """The checkout has no src folder, so it hides an installed package where it can be seen."""
    assert not PACKAGE.samefile(HERE / "ktlsgate")
    assert "site-packages" in PACKAGE.parts


def test_version_is_pyprojects():
    assert ktlsgate.__version__ == PYPROJECT["project"]["version"]


def test_installed_version_is_the_packages():
    try:
        installed = importlib.metadata.version("ktlsgate")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("it runs from the checkout, not installed")
    assert installed == ktlsgate.__version__


def test_package_is_typed():
    assert (PACKAGE / "py.typed").exists()


def test_every_room_is_there():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == {"wire", "kernel", "gate", "backend", "service"}


def test_package_holds_nothing_but_the_program():
    kinds = {path.suffix for path in PACKAGE.rglob("*") if path.is_file()} - {".pyc"}
    assert kinds == {".py", ".typed"}


def test_python_is_the_oldest_that_is_promised_or_newer():
    assert PYPROJECT["project"]["requires-python"] == ">=3.11"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py311"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == "3.11"


def test_what_the_gate_imports_is_declared():
    names = {entry.split(">")[0] for entry in PYPROJECT["project"]["dependencies"]}
    assert names == {"pyopenssl", "cryptography", "trio", "idna"}
