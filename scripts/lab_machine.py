"""What the lab asks the machine it runs on: may it, and where are the mirror and the registry."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# Only these mean the same inside a root: folders and configuration files of this machine do not.
PIP_VARIABLES = (
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_PROXY"),
    *("PIP_DEFAULT_TIMEOUT", "PIP_RETRIES", "http_proxy", "https_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
NAMESPACE = "KTLSGATE_LAB_NAMESPACE"  # holds the process id of the program inside its namespace


class LabError(Exception):
    """Something cannot be done on this machine today."""


def say(text: str) -> None:
    """Write one line for the operator, apart from the guests' output."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


def why_not(
    *, lab: str, os_release: str, uid: int, which: Callable[[str], str | None]
) -> str | None:
    """Return why no root can be built or booted here, or None when nothing stands against it."""
    like = " ".join(re.findall(r'^ID(?:_LIKE)?="?([^"\n]*)', os_release, re.MULTILINE)).split()
    reasons = (
        ("KTLSGATE_LAB is off", lab == "off"),
        ("it needs root (for chroot and mount)", uid != 0),
        ("it needs Debian or a system made from it", "debian" not in like),
        ("it needs apt-get", not which("apt-get")),
        ("it needs unshare and setpriv (util-linux)", not (which("unshare") and which("setpriv"))),
    )
    return next((reason for reason, applies in reasons if applies), None)


def why_not_here() -> str | None:
    """Ask `why_not` about this machine, and try whether a mount namespace is allowed."""
    release = Path("/etc/os-release")
    text = release.read_text(encoding="utf-8") if release.exists() else ""
    lab = os.environ.get("KTLSGATE_LAB", "")
    reason = why_not(lab=lab, os_release=text, uid=os.getuid(), which=shutil.which)
    if reason is None and os.environ.get(NAMESPACE) != str(os.getpid()):
        allowed = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
        reason = "mount namespaces are forbidden here" if allowed.returncode else None
    return reason


def enter_namespace() -> None:
    """Start this program again in a mount namespace of its own, unless it is in one."""
    if os.environ.get(NAMESPACE) == str(os.getpid()):  # unshare keeps the process id
        return
    command = ["unshare", "-m", "--propagation", "private", sys.executable, *sys.argv]
    environment = os.environ | {NAMESPACE: str(os.getpid())}
    os.execvpe(command[0], command, environment)  # noqa: S606 - there is nothing for a shell to do


def one_line_sources(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield address, suite and components of each `deb` line of a *.list file."""
    pattern = r"^\s*deb\s+(?:\[[^]]*\]\s*)?(\S+)\s+(\S+)([^#\n]*)"
    for address, suite, components in re.findall(pattern, text, re.MULTILINE):
        yield address, suite, components.split()


def deb822_sources(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield address, suite and components of each enabled `deb` stanza of a *.sources file."""
    text = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)
    for stanza in re.split(r"\n\s*\n", text):
        found = re.findall(r"^([\w-]+):((?:.*\n?)(?:[ \t]+.*\n?)*)", stanza, re.MULTILINE)
        fields = {name.lower(): value.split() for name, value in found}
        if "deb" in fields.get("types", []) and fields.get("enabled", ["yes"]) != ["no"]:
            for address in fields.get("uris", []):
                for suite in fields.get("suites", []):
                    yield address, suite, fields.get("components", [])


def choose_mirror(sources: Sequence[tuple[str, str, list[str]]]) -> str | None:
    """Return the Debian archive among the sources: not security, updates or a third party's."""
    archives = [
        address.rstrip("/")
        for address, suite, components in sources
        if "main" in components and not re.search("[-/]", suite) and address.startswith("http")
    ]
    return next((a for a in archives if a.endswith("/debian")), next(iter(archives), None))


def find_mirror(apt: Path = Path("/etc/apt")) -> str:
    """Return the Debian archive's address from this machine's apt sources."""
    sources: list[tuple[str, str, list[str]]] = []
    for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]:
        parse = {".list": one_line_sources, ".sources": deb822_sources}.get(path.suffix)
        if parse is not None and path.exists():
            sources += parse(path.read_text(encoding="utf-8"))
    mirror = choose_mirror(sources)
    if mirror is None:
        raise LabError("no Debian mirror in this machine's apt sources")
    return mirror


def pip_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what of pip's environment also holds inside a root: addresses, but no `file:` ones."""
    kept = {}
    for name in PIP_VARIABLES:
        words = [w for w in environ.get(name, "").split() if not w.startswith("file:")]
        if words:
            kept[name] = " ".join(words)
    return kept


def pip_configuration() -> dict[str, str]:
    """Return what of this machine's pip configuration says where the package registry is."""
    found = {}
    for option in ("index-url", "trusted-host", "proxy"):
        command = [sys.executable, "-m", "pip", "config", "get", f"global.{option}"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if not answer.returncode:
            found["PIP_" + option.upper().replace("-", "_")] = answer.stdout.strip()
    return found
