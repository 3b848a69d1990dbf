"""From symptoms to advice in words: what an operator can do about what the probe found.

Rule: a symptom is a row in a table. The errnos and their meanings were observed on
Linux 6.1, 6.12 and 7.2, except those of security policies, which are documented only.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from ..kernel.engines import Engine
from ..kernel.known_bugs import KNOWN_BUGS, KernelVersion, parse_version
from ..kernel.known_fixes import advise_fixes
from ..kernel.system import SystemFacts
from ..kernel.trials import NOT_TRIED
from ..wire.ciphers import KernelCipher, Version
from .probe_findings import Findings

__all__ = ["advise"]

_LOAD = (
    "Load the module as root and keep it loaded: `modprobe tls`, and"
    " `echo tls > /etc/modules-load.d/tls.conf`."
)
_NO_MODULE = (
    "Root could not load the module on demand: try `modprobe tls`; look for `install tls` or"
    " `blacklist tls` in /etc/modprobe.d; or run a kernel built with CONFIG_TLS."
)
_NO_FILE = (
    "There is no tls module for this kernel in /lib/modules/{release}: install the package that"
    " brings this kernel's modules, or run a kernel built with CONFIG_TLS."
)
_FORBIDDEN = "modprobe is told not to load {module}: take out {rule}, then `modprobe {module}`."
_LISTED = (
    "modprobe is told not to load {module} on demand, by {rule}: `modprobe {module}` loads it all"
    " the same, until the next boot; take that line out, or list it in /etc/modules-load.d."
)
_RULES = {"install": _FORBIDDEN, "blacklist": _LISTED}
_POLICY = "Allow setsockopt(TCP_ULP) in the seccomp or LSM profile that this process runs under."
_IN_CONTAINER = "This is a container: the host's kernel decides, so load the module on the host."

_ULP_ADVICE = {
    errno.ENOPROTOOPT: "TCP here knows no upper layer protocols (a sandbox's own TCP, or an MPTCP"
    " socket, as mptcpize makes them): run on a plain Linux kernel, with plain TCP listeners.",
    errno.ENOTCONN: "Not a fault of the kernel's TLS: the probe's own peer was gone, or had half"
    " closed. The gate attaches the layer right after accept() for that reason; try again.",
    errno.EPERM: _POLICY,
    errno.EACCES: _POLICY,
    errno.ENOSYS: _POLICY,
}

_KEY_ADVICE = {
    errno.ENOENT: "For {cells} the kernel's crypto algorithm is missing: {commands}; FIPS mode and"
    " stripped kernels forbid some.",
    errno.EINVAL: "{cells}: unknown to this kernel; run a newer one, or leave these suites out of"
    " the gate's list.",
    errno.ENOMEM: "The kernel had no memory for the keys of {cells}: look at the memory cgroup and"
    " net.core.optmem_max.",
}

_CRYPTO_MODULES = {
    KernelCipher.AES_GCM_128: "gcm",
    KernelCipher.AES_GCM_256: "gcm",
    KernelCipher.AES_CCM_128: "ccm",
    KernelCipher.CHACHA20_POLY1305: "chacha20poly1305",
}

_NOT_COUNTED = (
    "The kernel's counters contradict the trials ({reason}): something else than Linux's tls code"
    " answers here, a sandbox or a made-up /proc. Trust the trials, not the counters."
)

_NO_KTLS_BUILD = (
    "This OpenSSL was built without kTLS, as those in the registry's wheels are: `engine ="
    ' "openssl"` hands nothing over. Two ways out: `engine = "direct"` installs the keys itself and'
    " needs none of OpenSSL's kTLS; or take the distribution's packages, whose OpenSSL is built"
    " with it: `apt install python3-openssl`, and a Python that sees them: `python3 -m venv"
    " --system-site-packages DIR`."
)
_TX_ONLY_TLS13 = (
    "This OpenSSL{age} gives the kernel only the sending key of TLS 1.3: with `engine ="
    ' "openssl"` those connections are handed over for sending only. `engine = "direct"` installs'
    " both keys; so does OpenSSL 3.2 or later."
)


def advise(findings: Findings) -> tuple[str, ...]:
    """Collect the lines, the most urgent first; none when there is nothing to do."""
    return tuple(
        line
        for source in (
            _on_failure,
            _on_ulp,
            _on_keys,
            _on_counters,
            _on_openssl,
            _on_bugs,
            _on_fixes,
        )
        for line in source(findings)
    )


def _on_failure(findings: Findings) -> Iterator[str]:
    if findings.failure:
        yield f"The probe itself failed, so nothing above is certain: {findings.failure}."


def _on_ulp(findings: Findings) -> Iterator[str]:
    ulp, system = findings.capabilities.offload.ulp, findings.capabilities.system
    if ulp.ok or ulp.is_broken:
        return
    if ulp.errno == errno.ENOENT:
        yield from _on_module(system)
    elif ulp.errno in _ULP_ADVICE:
        yield _ULP_ADVICE[ulp.errno]


def _on_module(system: SystemFacts) -> Iterator[str]:
    if system.is_container:
        # What lies in its folders is not what the host's modprobe reads.
        yield _NO_MODULE if system.may_load_modules else _LOAD
        yield _IN_CONTAINER
        return
    rules = list(_rule_advice(system, ("tls",)))
    yield from rules
    if system.has_module_file is False:
        yield _NO_FILE.format(release=system.kernel)
    elif not system.may_load_modules:
        yield _LOAD
    elif not rules:
        yield _NO_MODULE


def _rule_advice(system: SystemFacts, modules: tuple[str, ...]) -> Iterator[str]:
    for rule in system.module_rules:
        if rule.module in modules and not system.is_container:
            yield _RULES[rule.text.split()[0]].format(module=rule.module, rule=rule)


def _on_keys(findings: Findings) -> Iterator[str]:
    for code, line in _KEY_ADVICE.items():
        cells = [
            cell
            for cell in findings.capabilities.offload.cells
            if code in (cell.tx.errno, cell.rx.errno)
        ]
        if not cells:
            continue
        modules = tuple(dict.fromkeys(_CRYPTO_MODULES[cell.cipher] for cell in cells))
        commands = " and ".join(f"`modprobe {module}`" for module in modules)
        yield line.format(cells=", ".join(cell.label for cell in cells), commands=commands)
        if code == errno.ENOENT:
            yield from _rule_advice(findings.capabilities.system, modules)


def _on_counters(findings: Findings) -> Iterator[str]:
    proof = findings.capabilities.counters.proof
    if proof is not NOT_TRIED and not proof.ok:
        yield _NOT_COUNTED.format(reason=proof.reason)


def _on_openssl(findings: Findings) -> Iterator[str]:
    report = findings.openssl
    if report.problem:
        yield f"{report.problem}. The gate needs pyOpenSSL, cryptography and trio."
    elif not report.libraries.trio:
        yield "trio is not installed. The gate needs pyOpenSSL, cryptography and trio."
    if report.has_ktls is False:
        yield _NO_KTLS_BUILD
    trial = report.trial(Engine.OPENSSL, Version.TLS13)
    if trial.tx.ok and not trial.rx.ok:
        yield _TX_ONLY_TLS13.format(age=" (older than 3.2)" if findings.is_openssl_old else "")


def _version_of(findings: Findings) -> KernelVersion | None:
    """The kernel's version; none where there is no kTLS to have defects."""
    capabilities = findings.capabilities
    if not capabilities.offload.ulp.ok:
        return None
    return parse_version(capabilities.system.kernel, capabilities.system.build)


def _on_bugs(findings: Findings) -> Iterator[str]:
    capabilities, version = findings.capabilities, _version_of(findings)
    for bug in KNOWN_BUGS if capabilities.offload.ulp.ok else ():
        outcome = capabilities.feature(bug.feature) if bug.feature else NOT_TRIED
        if outcome is not NOT_TRIED and not outcome.is_broken:
            if not outcome.ok:
                yield bug.measured_advice
        elif version and (line := bug.advice(version)):
            yield line


def _on_fixes(findings: Findings) -> Iterator[str]:
    version = _version_of(findings)
    if version and (line := advise_fixes(version)):
        yield line
