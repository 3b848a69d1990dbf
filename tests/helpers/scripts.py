"""The programs in ``scripts/``, as modules; they are no package."""

from __future__ import annotations

import importlib.util
import pathlib
import sys

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"


def load_script(name):
    """Import ``scripts/NAME.py``; what it imports of its like must have been loaded before."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses, and scripts that import each other, look there
    spec.loader.exec_module(module)
    return module
