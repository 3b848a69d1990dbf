#!/usr/bin/env python3
"""Make the probe one file that runs on any machine with Python 3.11 and nothing else.

    python3 scripts/build_probe.py [OUT]        (by default dist/ktls_probe.pyz)
    scp dist/ktls_probe.pyz elsewhere: && ssh elsewhere python3 ktls_probe.pyz

The file is a zip with a first line for the shell in front, which Python runs as it is
(the standard library's zipapp makes the same). Into it go the modules that the probe
imports, found by following imports from its entry; those inside functions too, so that
the engines are tried where pyOpenSSL is installed. The bytes depend on the sources alone:
no times, no compression (whose output differs between zlib's versions), one order.
"""

from __future__ import annotations

import ast
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = "ktlsgate"
ENTRY = f"{PACKAGE}.service.probe_report"
DEFAULT_OUT = CHECKOUT / "dist" / "ktls_probe.pyz"

SHEBANG = b"#!/usr/bin/env python3\n"
# Read by any Python 3: an old one must get as far as the sentence. Not 1: that is an answer.
MAIN = f"""\
import sys

if sys.version_info < (3, 11):
    sys.stderr.write("ktls_probe: needs Python 3.11 or newer\\n")
    sys.exit(4)

from {ENTRY} import main

sys.exit(main(sys.argv[1:], prog="ktls_probe"))
"""
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time that a zip can hold
_MODE = 0o644 << 16


def path_of(module: str, root: Path) -> Path | None:
    """Return the file of a module below the root; None for a name inside one."""
    base = root.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def imports_of(module: str, path: Path) -> Iterator[str]:
    """Give the modules of ours that a module imports, inside its functions too."""
    parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if not isinstance(node, ast.ImportFrom):
            continue  # ours are relative, and "import x" is not
        if node.level == 0:
            if (node.module or "").split(".")[0] == PACKAGE:
                raise SystemExit(f"{path}: expected relative imports inside the package")
            continue
        base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)


def needed_modules(root: Path) -> dict[str, Path]:
    """Return every module that the entry can come to import, with its file, sorted."""
    found: dict[str, Path] = {}
    waiting = [ENTRY]
    while waiting:
        module = waiting.pop()
        path = path_of(module, root)
        if path is None or module in found:
            continue
        found[module] = path
        waiting += imports_of(module, path)
        waiting += [module.rpartition(".")[0]] if "." in module else []
    return dict(sorted(found.items()))


def build_probe(out: Path, root: Path = CHECKOUT) -> int:
    """Write the file; return how many modules are in it.

    Args:
        out: where to; its folder is made.
        root: the folder that holds the package.
    """
    modules = needed_modules(root)
    files = {"__main__.py": MAIN.encode()}
    for path in modules.values():
        files[path.relative_to(root).as_posix()] = path.read_bytes()
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("wb") as file:
        file.write(SHEBANG)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in files.items():
                info = zipfile.ZipInfo(name, _EPOCH)
                info.external_attr = _MODE
                info.create_system = 3  # Unix, whatever this machine is
                archive.writestr(info, data)
    out.chmod(0o755)
    return len(modules)


if __name__ == "__main__":
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    target = Path(sys.argv[1]) if sys.argv[1:] else DEFAULT_OUT
    count = build_probe(target)
    print(f"{target}: {count} modules, {target.stat().st_size} bytes")
