"""What modprobe is told about the modules that kTLS needs, and whether there is a tls module.

Rule: hints for people. What lies in a container's folders is not what the host's modprobe
reads, and a folder that cannot be read says nothing. Source: modprobe.d(5): ``install``
runs another command instead, ``blacklist`` keeps the kernel from loading it on demand,
but not people.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MODULES", "ModuleRule", "has_module_file", "read_module_rules"]

MODULES = ("tls", "gcm", "ccm", "chacha20poly1305")
_FOLDERS = tuple(
    f"{folder}/modprobe.d" for folder in ("etc", "run", "usr/local/lib", "usr/lib", "lib")
)
_WORDS = frozenset(("install", "blacklist"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRule:
    """One line of modprobe's configuration.

    Attributes:
        module: what it is about.
        text: the line, its spaces made one.
        path: the file that it stands in.
    """

    module: str
    text: str
    path: str

    def __str__(self) -> str:
        """As people read it."""
        return f"`{self.text}` in {self.path}"


def read_module_rules(root: Path = Path("/")) -> tuple[ModuleRule, ...]:
    """Find the lines that keep one of `MODULES` from being loaded; nothing raises.

    Args:
        root: the folder that holds ``etc``; tests give their own.
    """
    # A newer Linux has /lib as a link to /usr/lib: one file is not told twice.
    folders = {(root / each).resolve(): each for each in reversed(_FOLDERS)}
    return tuple(
        rule
        for folder, name in sorted(folders.items(), key=lambda pair: _FOLDERS.index(pair[1]))
        for rule in _rules_in(folder, name)
    )


def _rules_in(folder: Path, name: str) -> Iterator[ModuleRule]:
    try:
        files = sorted(folder.glob("*.conf"))
    except OSError:
        return
    for file in files:
        try:
            text = file.read_text(encoding="ascii", errors="backslashreplace")
        except OSError:
            continue
        for line in text.splitlines():
            words = line.split()
            module = words[1].replace("-", "_") if len(words) > 1 else ""
            if words and words[0] in _WORDS and module in MODULES:
                yield ModuleRule(module=module, text=" ".join(words), path=f"/{name}/{file.name}")


def has_module_file(release: str, root: Path = Path("/")) -> bool | None:
    """Whether modprobe could find a tls module for a kernel; None where its lists are absent.

    Args:
        release: ``uname -r``.
        root: the folder that holds ``lib``; tests give their own.
    """
    folder = root / "lib/modules" / release
    found = []
    for name in ("modules.dep", "modules.builtin"):
        try:
            text = (folder / name).read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        found.append(any("/tls.ko" in line.partition(":")[0] for line in text.splitlines()))
    return any(found) if found else None
