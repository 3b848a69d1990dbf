"""The offload table and the whole probe: exact answers from values, real ones from the kernel."""

from __future__ import annotations

import dataclasses
import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.descriptors import no_descriptor_left, open_descriptors
from helpers.ktls import KERNEL_SUITES, kernel_table, require_ktls

import ktlsgate
from ktlsgate.config import Offload
from ktlsgate.kernel.features import FeatureName
from ktlsgate.kernel.module_rules import ModuleRule
from ktlsgate.kernel.probe import Capabilities, Cell, OffloadTable, probe_kernel, probe_offload
from ktlsgate.kernel.system import read_system_facts
from ktlsgate.kernel.trials import DONE, NOT_TRIED, Outcome
from ktlsgate.wire.ciphers import SUITES, KernelCipher, Version

REFUSED = Outcome(ok=False, errno=errno.EINVAL, reason="unknown (EINVAL)")
NO_MODULE = Outcome(ok=False, errno=errno.ENOENT, reason="nobody loaded it (ENOENT)")


def cell(**changes: object) -> Cell:
    whole = Cell(
        version=Version.TLS13, cipher=KernelCipher.AES_GCM_128, tx=DONE, rx=DONE, data=DONE
    )
    return dataclasses.replace(whole, **changes)


def table(*cells: Cell) -> OffloadTable:
    return OffloadTable(ulp=DONE, cells=cells)


@pytest.mark.parametrize(
    ("changes", "offload"),
    [
        ({}, Offload.BOTH),
        ({"rx": REFUSED}, Offload.TX),
        ({"tx": REFUSED, "data": NOT_TRIED}, Offload.NONE),
        ({"data": REFUSED}, Offload.NONE),
        ({"rx": REFUSED, "data": REFUSED}, Offload.NONE),
    ],
    ids=["all", "no rx", "no tx", "no data", "tx without data"],
)
def test_a_cipher_works_only_as_far_as_data_went_through_it(changes, offload) -> None:
    assert cell(**changes).offload is offload


def test_a_cell_says_its_first_refusal() -> None:
    assert cell().reason == ""
    assert cell(rx=REFUSED).reason == "unknown (EINVAL)"


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_the_full_table_supports_every_suite(suite) -> None:
    assert OffloadTable.all().supports(suite) is Offload.BOTH


@pytest.mark.parametrize("suite", KERNEL_SUITES, ids=lambda s: s.name)
def test_the_empty_table_supports_none(suite) -> None:
    assert OffloadTable.none("switched off").supports(suite) is Offload.NONE


def test_a_suite_is_looked_up_by_version_and_cipher_and_not_by_key_exchange() -> None:
    found = table(cell(version=Version.TLS12, rx=REFUSED))
    assert found.supports(SUITES["ECDHE-ECDSA-AES128-GCM-SHA256"]) is Offload.TX
    assert found.supports(SUITES["DHE-RSA-AES128-GCM-SHA256"]) is Offload.TX
    assert found.supports(SUITES["TLS_AES_128_GCM_SHA256"]) is Offload.NONE


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (OffloadTable.all(), "kTLS: tx+rx"),
        (table(cell(rx=REFUSED)), "kTLS: tx only"),
        (
            table(cell(), cell(cipher=KernelCipher.CHACHA20_POLY1305, tx=REFUSED)),
            "kTLS: tx+rx, but not for TLSv1.3 CHACHA20_POLY1305",
        ),
        (
            table(cell(tx=REFUSED, data=NOT_TRIED)),
            "no kTLS here: relaying, because no cipher works: unknown (EINVAL)",
        ),
        (table(), "no kTLS here: relaying, because no cipher works: none was tried"),
        (
            OffloadTable(ulp=NO_MODULE),
            "no kTLS here: relaying, because nobody loaded it (ENOENT)",
        ),
        (
            OffloadTable.none("it is switched off"),
            "no kTLS here: relaying, because it is switched off",
        ),
    ],
    ids=["all", "tx", "one missing", "no cipher", "no cells", "no ulp", "off"],
)
def test_the_summary_is_one_line(found, line) -> None:
    assert found.summary() == line


def test_the_reason_is_empty_as_soon_as_anything_works() -> None:
    assert table(cell(rx=REFUSED)).ulp_reason == ""
    assert OffloadTable.none("why").ulp_reason == "why"


def test_a_broken_trial_makes_the_table_a_failure() -> None:
    broken = Outcome(ok=False, reason="no loopback", is_broken=True)
    assert OffloadTable(ulp=broken).failure == "no loopback"
    assert table(cell(), cell(tx=broken)).failure == "no loopback"
    assert table(cell(rx=REFUSED)).failure == ""


NOTHING_KNOWN = {"module_rules": (), "has_module_file": None, "is_container": False}
RULE = ModuleRule(module="tls", text="blacklist tls", path="/etc/modprobe.d/a.conf")
GCM = ModuleRule(module="gcm", text="blacklist gcm", path="/etc/modprobe.d/a.conf")
NET_ADMIN = 1 << 12  # linux/capability.h


def capabilities(ulp: Outcome, **system: object) -> Capabilities:
    facts = dataclasses.replace(read_system_facts(), **system)
    return Capabilities(system=facts, offload=OffloadTable(ulp=ulp), features=())


def test_enoent_means_no_module_to_those_who_may_load_it() -> None:
    found = capabilities(
        NO_MODULE, capabilities=NET_ADMIN, is_first_user_namespace=True, **NOTHING_KNOWN
    )
    assert found.ulp_reason == (
        "the kernel has no tls module, or modprobe is told not to load it (ENOENT)"
    )


def test_enoent_means_not_loaded_to_those_who_may_not() -> None:
    found = capabilities(NO_MODULE, capabilities=0, **NOTHING_KNOWN)
    assert found.ulp_reason == (
        "the tls module is not loaded, and this process may not load it: that takes"
        " CAP_NET_ADMIN in the first user namespace (ENOENT)"
    )


@pytest.mark.parametrize("mask", [0, NET_ADMIN], ids=["user", "root"])
@pytest.mark.parametrize(
    ("known", "reason"),
    [
        ({"has_module_file": False}, "there is no tls module for this kernel (ENOENT)"),
        (
            {"module_rules": (RULE,), "has_module_file": True},
            "the tls module is not loaded, and modprobe is told not to load it (ENOENT)",
        ),
    ],
)
def test_what_modprobe_would_find_says_more_but_not_in_a_container(mask, known, reason) -> None:
    known = {**NOTHING_KNOWN, "capabilities": mask, "is_first_user_namespace": True, **known}
    assert capabilities(NO_MODULE, **known).ulp_reason == reason
    other = {**known, "is_container": True}
    assert capabilities(NO_MODULE, **other).ulp_reason != reason


def test_a_rule_against_another_module_says_nothing_of_this_one() -> None:
    known = {**NOTHING_KNOWN, "module_rules": (GCM,)}
    found = capabilities(NO_MODULE, capabilities=0, **known)
    assert found.ulp_reason.startswith("the tls module is not loaded, and this process may not")


def test_other_reasons_are_the_ulps_own() -> None:
    assert capabilities(REFUSED).ulp_reason == "unknown (EINVAL)"
    assert capabilities(DONE).ulp_reason == ""


def test_an_unknown_feature_was_not_tried() -> None:
    assert capabilities(DONE).feature(FeatureName.REKEY) is NOT_TRIED


def test_the_probe_of_this_kernel_is_quick_and_leaves_nothing_open() -> None:
    before = open_descriptors()
    started = time.monotonic()
    found = probe_offload()
    assert time.monotonic() - started < 5
    assert open_descriptors() == before
    assert found.failure == ""
    assert bool(found.cells) is found.ulp.ok
    assert bool(found.ulp_reason) is (found.best is Offload.NONE)


def test_the_whole_probe_agrees_with_the_quick_one() -> None:
    found = probe_kernel()
    assert found.offload.summary() == kernel_table().summary()
    assert bool(found.features) is (kernel_table().best is Offload.BOTH)
    assert [f.name for f in found.features] in ([], list(FeatureName))


def test_without_descriptors_the_probe_fails_as_a_value() -> None:
    with no_descriptor_left():
        found = probe_kernel()
    assert found.offload.failure == (
        "cannot make a TCP connection over loopback: [Errno 24] Too many open files"
    )
    assert found.ulp_reason == found.offload.failure


def test_the_probe_needs_nothing_but_python() -> None:
    """The receiving side and bare machines import it without pyOpenSSL, cryptography or trio."""
    code = (
        "import sys; sys.path[:0] = [p for p in sys.argv[1:] if p]\n"
        "import ktlsgate.kernel.probe as probe\n"
        "print(probe.probe_offload().summary())\n"
        "print(sorted({'OpenSSL', 'cryptography', 'trio'} & set(sys.modules)))"
    )
    root = str(Path(ktlsgate.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-B", "-I", "-S", "-c", code, root],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == f"{kernel_table().summary()}\n[]\n"


@pytest.mark.ktls
@pytest.mark.parametrize("suite", KERNEL_SUITES, ids=lambda s: f"{s.version.name}-{s.cipher.name}")
def test_every_cipher_of_the_table_works_on_the_kernels_that_were_observed(suite) -> None:
    require_ktls()
    assert kernel_table().supports(suite) is Offload.BOTH


def test_only_a_table_whose_trial_succeeded_can_rekey() -> None:
    assert OffloadTable.all().can_rekey
    assert not OffloadTable.none("why").can_rekey
    assert not table(cell()).can_rekey


def test_the_quick_probe_knows_whether_keys_can_be_replaced() -> None:
    require_ktls()
    found = probe_kernel()
    assert found.offload.rekey == found.feature(FeatureName.REKEY)
