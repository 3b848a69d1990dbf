"""The parts of the lab that decide something: no network, no root, no guest."""

import argparse
import asyncio
import contextlib
import importlib.util
import json
import re
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and lab's own import look it up there
    spec.loader.exec_module(module)
    return module


machine = load("lab_machine")
roots = load("lab_roots")
guest = load("lab_guest")
lab = load("lab")

DEB822 = """\
# written by the installer
Types: deb deb-src
URIs: http://security.example/debian-security
Suites: stable-security
Components: main

Types: deb
URIs: http://off.example/debian
Suites: stable
Components: main
Enabled: no

Types: deb
# a comment inside a stanza
URIs: http://first.example/debian/
 http://second.example/debian
Suites: stable stable-updates
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----
"""

ONE_LINE = """\
# deb http://commented.example/debian stable main
deb cdrom:[Debian]/ stable main
deb-src http://source.example/debian stable main
deb [arch=amd64 signed-by=/a/b.gpg] http://third.example/linux stable main
deb http://deb.example/debian stable-updates main
deb http://deb.example/debian/ stable main contrib # the archive
"""


# apt sources


def test_deb822_yields_each_enabled_address_and_suite():
    assert list(machine.deb822_sources(DEB822)) == [
        ("http://security.example/debian-security", "stable-security", ["main"]),
        ("http://first.example/debian/", "stable", ["main", "contrib"]),
        ("http://first.example/debian/", "stable-updates", ["main", "contrib"]),
        ("http://second.example/debian", "stable", ["main", "contrib"]),
        ("http://second.example/debian", "stable-updates", ["main", "contrib"]),
    ]


def test_one_line_form_skips_comments_sources_and_options():
    assert list(machine.one_line_sources(ONE_LINE)) == [
        ("cdrom:[Debian]/", "stable", ["main"]),
        ("http://third.example/linux", "stable", ["main"]),
        ("http://deb.example/debian", "stable-updates", ["main"]),
        ("http://deb.example/debian/", "stable", ["main", "contrib"]),
    ]


@pytest.mark.parametrize(
    ("parse", "text", "mirror"),
    [
        (machine.deb822_sources, DEB822, "http://first.example/debian"),
        (machine.one_line_sources, ONE_LINE, "http://deb.example/debian"),
    ],
)
def test_mirror_is_the_archive_rather_than_security_or_a_third_party(parse, text, mirror):
    assert machine.choose_mirror(list(parse(text))) == mirror


def test_mirror_is_read_from_both_kinds_of_file(tmp_path):
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(DEB822)
    assert machine.find_mirror(tmp_path) == "http://first.example/debian"
    (tmp_path / "sources.list").write_text(ONE_LINE)
    assert machine.find_mirror(tmp_path) == "http://deb.example/debian"


def test_a_disabled_sources_file_is_not_read(tmp_path):
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources.disabled").write_text(DEB822)
    with pytest.raises(machine.LabError, match=r"^no Debian mirror in this machine's apt sources$"):
        machine.find_mirror(tmp_path)


# recipe and markers


@pytest.fixture
def root(tmp_path):
    root = roots.Root(suite="trixie", folder=tmp_path / "trixie", venv_recipe="abc")
    (root.folder / "venv").mkdir(parents=True)
    return root


def mark(root, **status):
    root.marker.write_text(json.dumps(status))


def make_root(folder, suite, made_from=None):
    root = roots.Root(suite=suite, folder=folder / suite, venv_recipe="abc")
    root.folder.mkdir(exist_ok=True)
    mark(root, made_from=made_from or suite)
    return root


def test_root_without_a_marker_is_not_ready(root):
    root.venv_marker.write_text("abc")
    assert not root.is_ready()


def test_root_with_both_markers_of_today_is_ready(root):
    mark(root, recipe=roots.recipe("trixie"), made_from="trixie")
    root.venv_marker.write_text("abc")
    assert root.is_ready()


def test_another_package_list_makes_the_root_unready(root, monkeypatch):
    mark(root, recipe=roots.recipe("trixie"), made_from="trixie")
    monkeypatch.setattr(roots, "EXTRA_PACKAGES", ["something-new"])
    assert not root.packages_ready()


def test_another_list_of_requirements_makes_only_the_venv_unready(root):
    mark(root, recipe=roots.recipe("trixie"), made_from="trixie")
    root.venv_marker.write_text("an older list")
    assert root.packages_ready()
    assert not root.venv_ready()


def test_requirements_are_those_of_the_project_its_demo_and_its_tests(tmp_path):
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(
        '[project]\ndependencies = ["a>=1"]\noptional-dependencies = {demo = ["b"], x = ["y"]}\n'
        '[dependency-groups]\ntest = ["c", {include-group = "more"}]\nmore = ["d"]\nlint = ["e"]\n'
    )
    assert roots.requirements(pyproject) == (["a>=1"], ["b", "c", "d"])


def test_requirements_have_a_default_before_the_project_file_exists(tmp_path):
    needed, wanted = roots.requirements(tmp_path / "pyproject.toml")
    assert needed == []
    assert "pyopenssl" in wanted


def test_pip_keeps_addresses_and_drops_what_lies_on_this_machine():
    assert machine.pip_environment(
        {
            "PIP_INDEX_URL": "https://index.example/simple",
            "PIP_EXTRA_INDEX_URL": "file:///here/simple https://more.example/simple",
            "PIP_FIND_LINKS": "/here/wheels",
            "PIP_CONFIG_FILE": "/here/pip.conf",
        }
    ) == {
        "PIP_INDEX_URL": "https://index.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://more.example/simple",
    }


def test_a_name_that_cannot_be_installed_does_not_cost_the_others():
    installed = []

    def install(names):
        if "bad" in names:
            return False
        installed.extend(names)
        return True

    assert roots.install_or_drop(install, ["a", "bad", "c"]) == ["bad"]
    assert installed == ["a", "c"]


def test_cache_folder_follows_the_environment():
    assert roots.lab_folder({"KTLSGATE_LAB": "/x"}) == Path("/x")
    assert roots.lab_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/ktlsgate/lab")


# what may not be run

DEBIAN = 'PRETTY_NAME="Debian"\nID=debian\n'
DERIVED = 'ID=other\nID_LIKE="ubuntu debian"\n'


def has(*missing):
    return lambda name: None if name in missing else f"/bin/{name}"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"os_release": DERIVED}, None),
        ({"lab": "/some/folder"}, None),
        ({"lab": "off", "uid": 1}, "KTLSGATE_LAB is off"),
        ({"uid": 1000}, "it needs root (for chroot and mount)"),
        ({"os_release": "ID=fedora\n"}, "it needs Debian or a system made from it"),
        ({"which": has("apt-get")}, "it needs apt-get"),
        ({"which": has("setpriv")}, "it needs unshare and setpriv (util-linux)"),
    ],
)
def test_reason_why_nothing_can_be_run(changes, reason):
    here = {"lab": "", "os_release": DEBIAN, "uid": 0, "which": has()}
    assert machine.why_not(**here | changes) == reason


def test_what_was_not_run_is_said_with_a_status_of_its_own(monkeypatch, capsys):
    monkeypatch.setenv("KTLSGATE_LAB", "off")
    assert lab.main(["run", "trixie", "--", "true"]) == 77
    assert capsys.readouterr().err == "lab: not run: run trixie -- true: KTLSGATE_LAB is off\n"


# the guest's output


def feed(*lines):
    output = guest.GuestOutput("T")
    text = "".join(output.receive_line(line) for line in lines)
    return text + output.receive_eof(), output.status


def test_output_is_what_lies_between_begin_and_end():
    lines = [
        "kernel\r\n",
        "\r\n",
        "T begins\r\n",
        "a\r\n",
        "b\r\n",
        "\r\n",
        "T ends 3\r\n",
        "x\r\n",
    ]
    assert feed(*lines) == ("a\nb\n", 3)


def test_output_without_a_last_line_break_keeps_its_end():
    assert feed("T begins\n", "a\n", "b\n", "T ends 0\n") == ("a\nb", 0)


def test_empty_output_stays_empty():
    assert feed("T begins\n", "\n", "T ends 0\n") == ("", 0)


def test_output_without_an_end_is_shown_whole_and_has_no_status():
    assert feed("kernel\n", "T begins\n", "a\n", "b") == ("a\nb", None)


def test_a_line_is_given_back_before_the_next_one_comes():
    output = guest.GuestOutput("T")
    assert [output.receive_line(line) for line in ("T begins\n", "a\n", "b\n")] == ["", "a", "\nb"]


def test_boot_messages_are_shown_when_the_job_never_begins():
    assert feed("Kernel panic\n", "bye") == ("Kernel panic\nbye", None)


def test_a_job_cannot_forge_the_end():
    assert feed("T begins\n", "U ends 0\n", "\n", "T ends 1\n") == ("U ends 0\n", 1)


# one suite's userland on another's kernel


def make_system(folder, userland, kernel):
    return guest.System(userland=make_root(folder, userland), kernel=make_root(folder, kernel))


def test_a_kernel_of_its_own_boots_in_the_root_that_it_shows(tmp_path):
    system = make_system(tmp_path, "trixie", "trixie")
    command = guest.guest_command(system, "/stage/x/.init.sh")
    at = command.index("chroot")
    assert command[at : at + 2] == ["chroot", f"{tmp_path}/trixie"]
    assert command[command.index("linux.uml") :] == [
        *("linux.uml", "mem=2G", "root=/dev/root", "rootfstype=hostfs", "ro"),
        *("init=/stage/x/.init.sh", "quiet", "loglevel=3", "con=null", "con0=null,fd:1"),
        "ssl=null",
    ]


def test_another_suites_kernel_boots_in_its_own_root_and_shows_the_userlands(tmp_path):
    system = make_system(tmp_path, "bookworm", "forky")
    command = guest.guest_command(system, "/stage/x/.init.sh")
    at = command.index("chroot")
    assert command[at : at + 2] == ["chroot", f"{tmp_path}/forky"]
    assert command[command.index("rootfstype=hostfs") :][:4] == [
        *("rootfstype=hostfs", "rootflags=/tmp/bookworm", "ro", "init=/stage/x/.init.sh")
    ]


TMPFS = ("-t", "tmpfs", "-o", "mode=1777,exec", "tmpfs")


def test_the_userland_is_mounted_below_another_suites_kernel_on_its_tmpfs(tmp_path):
    assert make_system(tmp_path, "bookworm", "forky").mounts() == [
        (tmp_path / "forky/proc", ("--bind", "/proc")),
        (tmp_path / "forky/tmp", TMPFS),
        (tmp_path / "forky/tmp/bookworm", ("--bind", f"{tmp_path}/bookworm")),
    ]


def test_a_kernel_of_its_own_needs_only_proc_and_a_tmpfs(tmp_path):
    assert make_system(tmp_path, "forky", "forky").mounts() == [
        (tmp_path / "forky/proc", ("--bind", "/proc")),
        (tmp_path / "forky/tmp", TMPFS),
    ]


def hostfs_lines(system):
    stage = system.userland.folder / "stage" / "x"
    stage.mkdir(parents=True)
    job = guest.Job(command="true", python="system", timeout=1)
    assert guest.write_init(system, stage, job, "T") == "/stage/x/.init.sh"
    lines = (stage / ".init.sh").read_text().splitlines()
    return [line for line in lines if line.startswith("hostfs ")]


def test_init_mounts_the_stage_and_the_modules_from_where_the_kernel_sees_them(tmp_path):
    assert hostfs_lines(make_system(tmp_path, "bookworm", "forky")) == [
        "hostfs rw /tmp/bookworm/stage/x /stage/x",
        "hostfs ro /usr/lib/uml/modules /usr/lib/modules",
    ]


def test_init_leaves_the_modules_of_a_kernel_of_its_own_where_they_are(tmp_path):
    assert hostfs_lines(make_system(tmp_path, "forky", "forky")) == ["hostfs rw /stage/x /stage/x"]


def pairs_of(suites, kernels, ready):
    made = [roots.Root(suite=name, folder=Path(name), venv_recipe="") for name in ready]
    systems = lab.systems_of(suites, kernels, made)
    return [(system.userland.suite, system.kernel.suite) for system in systems]


def test_every_chosen_suite_runs_on_every_chosen_kernel():
    assert pairs_of(["trixie", "bookworm"], ["forky", "trixie"], roots.SUITES) == [
        ("trixie", "forky"),
        ("trixie", "trixie"),
        ("bookworm", "forky"),
        ("bookworm", "trixie"),
    ]


def test_without_chosen_kernels_every_suite_runs_on_its_own():
    assert pairs_of(["trixie", "forky"], None, roots.SUITES) == [
        ("trixie", "trixie"),
        ("forky", "forky"),
    ]


def test_a_root_that_is_not_ready_costs_only_the_pairs_that_need_it():
    ready = ["bookworm", "trixie"]
    assert pairs_of(["bookworm"], ["trixie", "forky"], ready) == [("bookworm", "trixie")]
    assert pairs_of(["forky", "trixie"], ["bookworm"], ready) == [("trixie", "bookworm")]


def test_locks_are_taken_once_each_and_in_one_order():
    assert lab.in_order(["forky", "bookworm", "forky"]) == ["bookworm", "forky"]


def test_label_names_the_kernels_suite_when_kernels_were_chosen(tmp_path):
    system = make_system(tmp_path, "bookworm", "forky")
    assert lab.label_of(system, "wheel", names_kernel=True) == "bookworm wheel on forky's kernel"
    own = make_system(tmp_path, "trixie", "trixie")
    assert lab.label_of(own, "system", names_kernel=True) == "trixie system on trixie's kernel"
    assert lab.label_of(own, "system", names_kernel=False) == "trixie system"


def test_label_says_which_of_the_two_another_release_stands_in_for(tmp_path):
    ours, sid = make_root(tmp_path, "trixie"), make_root(tmp_path, "forky", made_from="sid")
    labels = [
        lab.label_of(guest.System(userland=u, kernel=k), "system", names_kernel=True)
        for u, k in ((ours, sid), (sid, ours))
    ]
    assert labels == [
        "trixie system on forky's kernel (sid in its place)",
        "forky system (sid in its place) on trixie's kernel",
    ]


# the course of a run


class Guests:
    """Stands in for the roots of a folder, of which forky cannot be had, and for their guests."""

    def __init__(self, folder, wheel):
        self.folder, self.wheel = folder, wheel
        self.seen = []

    @contextlib.contextmanager
    def ready_root(self, suite):
        if suite == "forky":
            raise machine.LabError("cannot build forky: debootstrap failed\nand why")
        yield make_root(self.folder, suite)

    async def boot(self, system, stage, job, show):
        names = (system.userland.suite, system.kernel.suite, job.python)
        self.seen.append((*names, (stage / "site/a.py").read_text()))
        self.wheel.write_bytes(b"half a wheel")
        return lab.Result(status=0, output="1 passed in 1.00s\n", seconds=2.0)


@pytest.fixture
def guests(tmp_path, monkeypatch):
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a.py", "first")
    guests = Guests(tmp_path, wheel)
    monkeypatch.setattr(lab, "ready_root", guests.ready_root)
    monkeypatch.setattr(lab, "boot", guests.boot)
    return guests


def run_lab(*words):
    return asyncio.run(lab.carry_out(lab.parse_arguments(list(words))))


def test_all_guests_get_the_wheel_as_it_was_at_the_start(guests):
    options = ("--suites", "bookworm,trixie", "--python", "system")
    assert run_lab("test", *options, str(guests.wheel)) == 0
    assert guests.seen == [
        ("bookworm", "bookworm", "system", "first"),
        ("trixie", "trixie", "system", "first"),
    ]


def test_a_suite_that_cannot_be_had_is_reported_in_one_line(guests, capsys):
    options = ("--suites", "forky,trixie", "--python", "wheel")
    assert run_lab("test", *options, str(guests.wheel)) == 77
    assert guests.seen == [("trixie", "trixie", "wheel", "first")]
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "trixie wheel: passed | unknown | 1 passed | 2 s",
        "lab: not run: forky: cannot build forky: debootstrap failed",
    ]


def test_a_kernel_that_cannot_be_had_is_reported_in_one_line(guests, capsys):
    options = ("--suites", "bookworm", "--kernels", "forky,trixie", "--python", "wheel")
    assert run_lab("test", *options, str(guests.wheel)) == 77
    assert guests.seen == [("bookworm", "trixie", "wheel", "first")]
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "bookworm wheel on trixie's kernel: passed | unknown | 1 passed | 2 s",
        "lab: not run: forky: cannot build forky: debootstrap failed",
    ]


def test_a_command_runs_on_the_chosen_kernel_or_else_its_own(guests):
    (guests.folder / "a.py").write_text("copied")
    copy = ("--copy", f"{guests.folder}/a.py:site/a.py")
    assert run_lab("run", "bookworm", "--kernel", "trixie", *copy, "--", "true") == 0
    assert run_lab("run", "bookworm", *copy, "--", "true") == 0
    assert guests.seen == [
        ("bookworm", "trixie", "system", "copied"),
        ("bookworm", "bookworm", "system", "copied"),
    ]


# arguments and summary


def test_copy_target_is_below_the_working_folder(tmp_path):
    assert lab.copy_pair(str(tmp_path)) == (tmp_path, Path(tmp_path.name))
    assert lab.copy_pair(f"{tmp_path}:c/d") == (tmp_path, Path("c/d"))


@pytest.mark.parametrize("target", ["/etc", "../x", "."])
def test_copy_elsewhere_is_refused(tmp_path, target):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a path below the working folder"):
        lab.copy_pair(f"{tmp_path}:{target}")


def test_copy_of_nothing_is_refused(tmp_path):
    with pytest.raises(argparse.ArgumentTypeError, match="gone does not exist"):
        lab.copy_pair(str(tmp_path / "gone"))


def test_what_follows_the_dashes_is_the_guests():
    arguments = lab.parse_arguments(["run", "forky", "--python", "wheel", "--", "ls", "--", "-l"])
    assert (arguments.python, arguments.command) == ("wheel", ["ls", "--", "-l"])
    arguments = lab.parse_arguments(["test", "--suites", "forky,trixie", __file__])
    assert (arguments.suites, arguments.pytest) == (["forky", "trixie"], [])
    assert arguments.kernels is None
    arguments = lab.parse_arguments(["test", "--kernels", "forky,trixie", __file__])
    assert arguments.kernels == ["forky", "trixie"]


@pytest.mark.parametrize("option", ["--suites", "--kernels"])
def test_an_unknown_suite_is_refused(option, capsys):
    with pytest.raises(SystemExit):
        lab.parse_arguments(["test", option, "forky,potato", __file__])
    expected = f"{option}: 'forky,potato': expected some of bookworm,trixie,forky\n"
    assert capsys.readouterr().err.endswith(expected)


def result(status, *lines):
    return lab.Result(status=status, output="".join(lines), seconds=12.4)


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("=== 3 passed, 1 skipped in 2.05s ===\n", "3 passed, 1 skipped"),
        ("1 failed, 3 passed in 65.10s (0:01:05)\n", "1 failed, 3 passed"),
        ("=== no tests ran in 0.01s ===\n", "no tests ran"),
        ("something else\n", "no counts"),
    ],
)
def test_summary_quotes_the_facts_and_the_counts(line, counts):
    facts = "lab facts: Linux 6.12 | OpenSSL 3.5.0\n"
    expected = f"trixie wheel: passed | Linux 6.12 | OpenSSL 3.5.0 | {counts} | 12 s"
    assert lab.summary("trixie wheel", result(0, facts, line)) == expected


def test_summary_of_a_killed_guest_says_so():
    line = lab.summary("trixie wheel", result(lab.TIMED_OUT))
    assert line == "trixie wheel: TIMED OUT | unknown | no counts | 12 s"


def test_packages_a_suite_lacks_are_read_from_the_log():
    log = "I: Retrieving\nE: Couldn't find these debs: strace python3-h11\n"
    assert roots.lacking_packages(log) == {"strace", "python3-h11"}
    assert roots.lacking_packages("E: something else\n") == set()


def test_expiry_of_an_index_is_read_where_it_has_one():
    stamp = roots.expiry("Suite: testing\nValid-Until: Fri, 06 Nov 2026 08:08:01 UTC\n")
    assert stamp.isoformat() == "2026-11-06T08:08:01+00:00"
    assert roots.expiry("Suite: stable\n") is None


def test_guests_get_the_variables_that_the_tests_read_and_no_others():
    read = {
        "KTLSGATE_SEED": "7",
        "KTLSGATE_FULL": "1",
        "KTLSGATE_MATRIX": "all",
        "KTLSGATE_RANDOM": "9",
    }
    assert lab.suite_settings({"KTLSGATE_LAB": "/x", "HOME": "/root", **read}) == read


def test_what_the_readme_shows_goes_along_with_the_tests(tmp_path):
    wheel = tmp_path / "w.whl"
    zipfile.ZipFile(wheel, "w").close()
    lab.gather_tests(wheel, tmp_path)
    work = tmp_path / "work"
    shown = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (work / "README.md").read_text())
    assert shown
    assert [name for name in shown if not (work / name).is_file()] == []
