"""Build the roots of `lab.py`: one Debian release in one folder, ready to boot its own kernel.

- A root is ready only when its marker file exists: it is removed before anything else is touched
  and written last, and holds a hash of the recipe, so that a changed recipe makes the root
  anew. The virtual environment `/venv` in it has a marker of its own: a changed list of
  requirements refreshes that alone.
- Who builds a root holds its lock exclusively, who boots it holds the lock shared.
- Every mount happens in a private mount namespace (the program starts itself again under
  `unshare`), so the kernel cleans up whatever way the program ends.
- A root is rebuilt, never upgraded: it takes a minute, and nothing depends on what was there.

Only the standard library: it runs before any environment exists.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import ssl
import subprocess
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lab_machine import LabError, find_mirror, pip_configuration, pip_environment, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CHECKOUT = Path(__file__).resolve().parent.parent

# What each suite is built from: the first that can be had on the day. Testing sometimes cannot be
# installed for some hours; unstable holds the same versions.
SUITES = {"bookworm": ("bookworm",), "trixie": ("trixie",), "forky": ("forky", "sid")}

CORE_PACKAGES = (
    *("user-mode-linux", "python3-openssl", "python3-trio", "python3-trustme", "python3-pytest"),
    *("python3-venv", "openssl", "iproute2", "kmod", "busybox-static", "curl", "ca-certificates"),
    *("procps", "util-linux"),
)
EXTRA_PACKAGES = ("python3-hypothesis", "python3-h11", "python3-wsproto", "gnutls-bin", "strace")
DEFAULT_REQUIREMENTS = (
    *("pyopenssl", "cryptography", "trio", "trustme", "pytest"),
    *("hypothesis", "h11", "httptools", "wsproto"),
)
# Succeeds if every package named by an argument is installed and configured.
INSTALLED = 'test "$(dpkg-query -W -f \'${db:Status-Status}\\n\' "$@" | sort -u)" = installed'


def lab_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of all roots: a cache, outside the checkout."""
    cache = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(environ.get("KTLSGATE_LAB") or Path(cache) / "ktlsgate" / "lab").absolute()


# Roots.


def digest(*values: object) -> str:
    """Return a hash that changes when any of the values does."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def recipe(suite: str) -> str:
    """Return the hash of all that decides what a root is made of."""
    return digest(SUITES[suite], CORE_PACKAGES, EXTRA_PACKAGES)


def requirements(pyproject: Path) -> tuple[list[str], list[str]]:
    """Return what the project must have, and what its demo and its tests would like to have."""
    if not pyproject.exists():
        return [], list(DEFAULT_REQUIREMENTS)
    data = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    project = data.get("project", {})
    wanted = list(project.get("optional-dependencies", {}).get("demo", []))
    groups = data.get("dependency-groups", {})
    pending = list(groups.get("test", []))
    while pending:
        entry = pending.pop(0)
        if isinstance(entry, str):
            wanted.append(entry)
        else:
            pending += groups[entry["include-group"]]
    return list(project.get("dependencies", [])), wanted


def install_or_drop(install: Callable[[list[str]], bool], names: list[str]) -> list[str]:
    """Install all names at once, or else one by one; return those that cannot be installed."""
    return [] if not names or install(names) else [n for n in names if not install([n])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """One suite's folder; `folder` and everything about it may be absent."""

    suite: str
    folder: Path
    venv_recipe: str

    @property
    def marker(self) -> Path:
        """The file that exists only while the packages are complete."""
        return self.folder / ".lab-ready"

    @property
    def venv_marker(self) -> Path:
        """The file that exists only while the venv is complete."""
        return self.folder / "venv" / ".lab-ready"

    @property
    def log(self) -> Path:
        """What the commands of the last build said."""
        return self.folder.with_suffix(".log")

    @property
    def status(self) -> dict[str, str]:
        """What the marker says: `recipe`, and `made_from`, the Debian suite really used."""
        return json.loads(self.marker.read_text()) if self.marker.exists() else {}

    @property
    def kernel(self) -> str:
        """The release of the kernel in the root."""
        modules = self.folder / "usr/lib/uml/modules"
        return " ".join(sorted(p.name for p in modules.glob("*"))) or "none"

    def packages_ready(self) -> bool:
        """Return whether the packages are complete and of today's recipe."""
        return self.status.get("recipe") == recipe(self.suite)

    def venv_ready(self) -> bool:
        """Return whether the venv is complete and of today's requirements."""
        marker = self.venv_marker
        return marker.exists() and marker.read_text() == self.venv_recipe

    def is_ready(self) -> bool:
        """Return whether the root can be booted as it is."""
        return self.packages_ready() and self.venv_ready()


def root_of(suite: str) -> Root:
    """Return where a suite's root is or will be."""
    wanted = digest(requirements(CHECKOUT / "pyproject.toml"))
    return Root(suite=suite, folder=lab_folder(os.environ) / suite, venv_recipe=wanted)


def mounts_below(folder: Path) -> list[str]:
    """Return the mount points in a folder, outer ones first."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    points = [line.split()[1].replace("\\040", " ") for line in lines]
    return [p for p in points if Path(p).is_relative_to(folder.resolve())]


def remove_root(folder: Path) -> None:
    """Delete a root; never through a mount, which would delete this machine's own files."""
    for point in reversed(mounts_below(folder)):
        subprocess.run(["umount", point], check=False)
    if left := mounts_below(folder):
        raise LabError(f"cannot replace {folder.name}: still mounted: {' '.join(left)}")
    subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)


def mount_once(folder: Path, *options: str) -> None:
    """Mount something on a folder unless something is mounted there; ours is a namespace apart."""
    if not folder.is_mount():
        done = subprocess.run(["mount", *options, folder], capture_output=True, check=False)
        if done.returncode:
            raise LabError(f"cannot mount: {done.stderr.decode().strip()}")


def mount_system(root: Root) -> None:
    """Give commands inside the root the `/proc` and `/dev` they expect."""
    for name in ("proc", "dev"):
        mount_once(root.folder / name, "--bind", f"/{name}")


def logged(root: Root, *command: str | Path, env: Mapping[str, str] | None = None) -> bool:
    """Run a command of the build, its output in the root's log; return whether it succeeded."""
    quiet = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    with root.log.open("a", encoding="utf-8") as log:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**(os.environ if env is None else env), **quiet},
            check=False,
        )
    return done.returncode == 0


def chrooted(root: Root, *command: str, env: Mapping[str, str] | None = None) -> bool:
    """Run a command inside the root, without this machine's environment: its paths mean nothing."""
    inside = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"} | dict(env or {})
    return logged(root, "chroot", root.folder, *command, env=inside)


def must(root: Root, what: str, *, succeeded: bool) -> None:
    """Give up the build, with the end of its log, unless a step succeeded."""
    if not succeeded:
        tail = "\n".join(root.log.read_text(errors="replace").splitlines()[-15:])
        raise LabError(f"cannot build {root.suite}: {what} failed, see {root.log}:\n{tail}")


def bootstrap(root: Root, suite: str, mirror: str) -> bool:
    """Make one suite's release with all its packages; return whether the needed ones are there."""
    remove_root(root.folder)
    scripts = Path("/usr/share/debootstrap/scripts")
    # An older debootstrap does not know the newest releases' names; they are made as sid is.
    script = scripts / (suite if (scripts / suite).exists() else "sid")
    packages = [*CORE_PACKAGES, *EXTRA_PACKAGES]

    def debootstrap() -> bool:
        options = ("--variant=minbase", f"--include={','.join(packages)}")
        return logged(root, "debootstrap", *options, suite, root.folder, mirror, script)

    if not debootstrap():
        lacking = lacking_packages(root.log.read_text(encoding="utf-8", errors="replace"))
        if lacking and lacking.isdisjoint(CORE_PACKAGES):
            packages = [name for name in packages if name not in lacking]
            say(f"{suite} goes without {' '.join(sorted(lacking))}")
            debootstrap()
    if not (root.folder / "var/lib/dpkg/status").exists():
        return False
    # python3-cryptography cannot be configured without these, and debootstrap stops there.
    mount_system(root)
    chrooted(root, "dpkg", "--configure", "-a")
    chrooted(root, "apt-get", "-f", "install", "-y")
    chrooted(root, "apt-get", "clean")
    return chrooted(root, "sh", "-c", INSTALLED, "sh", *packages)


def lacking_packages(log: str) -> set[str]:
    """Return the packages that debootstrap says its suite does not have."""
    found = re.findall(r"^E: Couldn't find these debs: (.*)", log, re.MULTILINE)
    return set(" ".join(found).split())


def warn_of_stale_index(root: Root, now: datetime) -> None:
    """Say when the mirror's index has expired: debootstrap checks its signature, not its age."""
    for release in (root.folder / "var/lib/apt/lists").glob("*Release"):
        until = expiry(release.read_text(encoding="utf-8", errors="replace"))
        if until is not None and until < now:
            say(f"{root.suite}: the mirror's index is stale, valid until {until:%Y-%m-%d}")
            return


def expiry(release: str) -> datetime | None:
    """Return until when a mirror's index says it is valid."""
    found = re.search(r"^Valid-Until: (.*)", release, re.MULTILINE)
    return parsedate_to_datetime(found[1].replace("UTC", "+0000")) if found else None


def install_packages(root: Root) -> None:
    """Make the root anew from the first of its suites that can be had, and mark it ready."""
    mirror = find_mirror()
    root.marker.unlink(missing_ok=True)
    get_debootstrap(root)
    made_from = next((s for s in SUITES[root.suite] if bootstrap(root, s, mirror)), None)
    must(root, "debootstrap", succeeded=made_from is not None)
    if made_from != root.suite:
        say(f"{root.suite} cannot be built today, {made_from} takes its place")
    warn_of_stale_index(root, datetime.now(UTC))
    for modules in (root.folder / "usr/lib/uml/modules").iterdir():
        link = root.folder / "usr/lib/modules" / modules.name  # where modprobe looks
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(Path("/usr/lib/uml/modules") / modules.name)
    status = {"recipe": recipe(root.suite), "made_from": made_from}
    root.marker.write_text(json.dumps(status), encoding="utf-8")


def build_venv(root: Root) -> None:
    """Make `/venv` anew from the package registry."""
    root.venv_marker.unlink(missing_ok=True)
    must(root, "venv", succeeded=chrooted(root, "python3", "-m", "venv", "--clear", "/venv"))
    bundle = os.environ.get("PIP_CERT") or ssl.get_default_verify_paths().cafile
    environment = pip_environment(os.environ | pip_configuration())
    if bundle:
        shutil.copy(bundle, root.folder / "venv" / "ca.pem")
        environment["PIP_CERT"] = "/venv/ca.pem"

    # Wheels only: there is no compiler in the root, and a wheel is what users get.
    pip = ("/venv/bin/python", "-m", "pip", "install", "--no-cache-dir", "--only-binary=:all:")

    def install(names: list[str]) -> bool:
        return chrooted(root, *pip, *names, env=environment)

    needed, wanted = requirements(CHECKOUT / "pyproject.toml")
    if not install(needed + wanted):
        must(root, "pip install", succeeded=not needed or install(needed))
        if lacking := install_or_drop(install, wanted):
            say(f"{root.suite}'s venv goes without {' '.join(lacking)}")
    root.venv_marker.write_text(root.venv_recipe, encoding="utf-8")


def copy_network_files(root: Root) -> None:
    """Give the root this machine's name resolution, and `localhost` in both address families."""
    shutil.copy("/etc/resolv.conf", root.folder / "etc/resolv.conf")
    hosts = Path("/etc/hosts").read_text(encoding="utf-8")
    ours = "127.0.0.1 localhost lab\n::1 localhost ip6-localhost ip6-loopback\n"
    (root.folder / "etc/hosts").write_text(ours + hosts, encoding="utf-8")


def build(root: Root) -> None:
    """Make the root ready; its lock is held exclusively.

    Raises:
        LabError: when a step failed; the root is not ready then and the next call starts over.

    """
    root.log.write_text("", encoding="utf-8")
    if not root.packages_ready():
        say(f"building {root.suite}, about a minute (log: {root.log})")
        install_packages(root)
    if not root.venv_ready():
        say(f"filling the venv of {root.suite}")
        mount_system(root)
        copy_network_files(root)
        build_venv(root)


def get_debootstrap(root: Root) -> None:
    """Install debootstrap on this machine if it is not there."""
    if not shutil.which("debootstrap"):
        wait = ("-o", "DPkg::Lock::Timeout=300")  # seconds; another build may be installing it too
        logged(root, "apt-get", "update")
        command = ("apt-get", *wait, "install", "-y", "--no-install-recommends", "debootstrap")
        must(root, "installing debootstrap", succeeded=logged(root, *command))


@contextlib.contextmanager
def ready_root(suite: str) -> Iterator[Root]:
    """Give a suite's root, built first if need be, and keep others from rebuilding it meanwhile."""
    root = root_of(suite)
    root.folder.parent.mkdir(parents=True, exist_ok=True)
    with root.folder.with_suffix(".lock").open("w") as lock:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Nobody else is here: what stages there are belong to runs that were killed outright.
            shutil.rmtree(root.folder / "stage", ignore_errors=True)
        fcntl.flock(lock, fcntl.LOCK_SH)
        while not root.is_ready():
            # Changing the kind of a lock lets others in between: look again under each.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not root.is_ready():
                build(root)
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield root
