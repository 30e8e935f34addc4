"""Why the kernel refuses programs and events, and what mends it."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from jsspy.linux.bpf import Refused
from jsspy.linux.caps import Capability, Facts, decide_bpf_refused, decide_perf_refused

FACTS = Facts(
    uid=1000,
    effective=0,
    yama_ptrace_scope=0,
    perf_event_paranoid=2,
    kptr_restrict=0,
    unprivileged_bpf_disabled=2,
    lockdown=None,
    seccomp=0,
    in_user_namespace=False,
    container="",
    hidepid="off",
    security_modules=(),
    linux=(5, 17),
)
ROOT = replace(FACTS, uid=0, effective=(1 << 41) - 1)
BPF_ONLY = replace(FACTS, effective=1 << Capability.BPF)

BPF = {
    "hidden": (ROOT, errno.ENOSYS, "no bpf(2)", None),
    "user": (FACTS, errno.EPERM, "lack CAP_BPF and CAP_PERFMON", "sudo jsspy record ..."),
    "setting": (FACTS, errno.EPERM, "unprivileged_bpf_disabled is 2", "sudo jsspy record ..."),
    "half": (BPF_ONLY, errno.EPERM, "we lack CAP_PERFMON", "sudo jsspy record ..."),
    "container": (
        replace(FACTS, uid=0, container="podman"),
        errno.EPERM,
        "this container lacks CAP_BPF and CAP_PERFMON",
        "podman run --cap-add BPF --cap-add PERFMON --cap-add SYS_PTRACE ...",
    ),
    "namespace": (replace(ROOT, in_user_namespace=True), errno.EPERM, "user namespace", "host"),
    "lockdown": (
        replace(ROOT, lockdown="confidentiality"),
        errno.EINVAL,
        "confidentiality",
        "boot without",
    ),
    "seccomp": (replace(ROOT, seccomp=2), errno.EPERM, "seccomp filter", None),
    "old": (
        replace(ROOT, linux=(5, 15)),
        errno.EINVAL,
        "too old: it is Linux 5.15, and 5.17 is needed",
        None,
    ),
    "old and not permitted": (replace(FACTS, linux=(5, 15)), errno.EPERM, "lack CAP_BPF", "sudo"),
    "new": (replace(ROOT, linux=(10, 0)), errno.EINVAL, "it said no", None),
    "other": (ROOT, errno.E2BIG, "it said no", None),
}

PERF = {
    "hidden": (ROOT, True, errno.ENOSYS, "no perf events", None),
    "paranoid": (
        replace(FACTS, perf_event_paranoid=3),
        False,
        errno.EACCES,
        "kernel.perf_event_paranoid is 3",
        "sudo sysctl kernel.perf_event_paranoid=2",
    ),
    "kernel": (
        FACTS,
        True,
        errno.EACCES,
        "kernel.perf_event_paranoid is 2",
        "sudo sysctl kernel.perf_event_paranoid=1",
    ),
    "other user": (FACTS, False, errno.EACCES, "somebody else", "sudo jsspy record ..."),
    "sandbox": (
        replace(ROOT, seccomp=2, container="docker"),
        False,
        errno.EPERM,
        "seccomp filter",
        "docker run --security-opt seccomp=unconfined ...",
    ),
    "filtered": (replace(FACTS, seccomp=2), False, errno.EPERM, "seccomp filter", None),
    "other": (ROOT, False, errno.EMFILE, "it said no", None),
}


def check(found: tuple[str, str | None], sentence: str, hint: str | None) -> None:
    assert sentence in found[0]
    if hint is None:
        assert found[1] is None
    else:
        assert found[1] is not None
        assert hint in found[1]


def test_the_compiler_is_off() -> None:
    message = "cannot load: invalid argument: callbacks are not allowed in non-JITed programs"
    found = decide_bpf_refused(ROOT, errno.EINVAL, message, (5, 17))
    check(found, "net.core.bpf_jit_enable is 0", "sudo sysctl net.core.bpf_jit_enable=1")


@pytest.mark.parametrize("log", ["", "\nprocessed 416 insns (limit 1000000)\n"])
def test_the_verifiers_reason_is_one_line(log: str) -> None:
    refused = Refused("load it", errno.EINVAL, f"459: r3 += 8\n460: call\nunknown func{log}")
    assert refused.message == "cannot load it: invalid argument: unknown func"
    assert Refused("load it", errno.EINVAL).message == "cannot load it: invalid argument"


@pytest.mark.parametrize("case", BPF)
def test_programs(case: str) -> None:
    facts, code, sentence, hint = BPF[case]
    check(decide_bpf_refused(facts, code, "it said no", (5, 17)), sentence, hint)


@pytest.mark.parametrize("case", PERF)
def test_events(case: str) -> None:
    facts, kernel, code, sentence, hint = PERF[case]
    check(decide_perf_refused(facts, code, "it said no", kernel=kernel), sentence, hint)
