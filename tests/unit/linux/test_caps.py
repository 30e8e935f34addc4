"""Every reason for which ptrace is denied has its own words and its own command."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jsspy.linux import caps
from jsspy.linux.caps import Capability, Facts, Subject
from jsspy.linux.procfs import Status

ALL = (1 << 41) - 1
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
    linux=(6, 12),
    security_modules=(),
)
ROOT = replace(FACTS, uid=0, effective=ALL)
ROOT_IN_CONTAINER = replace(FACTS, uid=0, effective=0xA80425FB, container="docker")
STATUS = Status(name="node", state="S", process=4121, uids=(1000,) * 4, gids=(1000,) * 4)
SUBJECT = Subject(
    pid=4121, status=STATUS, is_dumpable=True, is_our_descendant=False, same_user_namespace=True
)
OTHERS = replace(SUBJECT, status=STATUS._replace(uids=(0,) * 4), same_user_namespace=None)
TRACED = replace(SUBJECT, status=STATUS._replace(tracer=77), tracer_name="gdb")

SUDO = "sudo jsspy record --pid 4121"
CASES = {
    "yama 1": (
        replace(FACTS, yama_ptrace_scope=1),
        SUBJECT,
        "kernel.yama.ptrace_scope is 1 and 4121 is not our child",
        f"{SUDO}    or start it under us: jsspy record -- node server.js",
    ),
    "yama 2": (
        replace(FACTS, yama_ptrace_scope=2),
        replace(SUBJECT, is_our_descendant=True),
        "kernel.yama.ptrace_scope is 2",
        SUDO,
    ),
    "yama 3": (replace(ROOT, yama_ptrace_scope=3), SUBJECT, "not even root", "reboot"),
    "other uid": (FACTS, OTHERS, "4121 belongs to user root", SUDO),
    "docker": (
        replace(ROOT_IN_CONTAINER, uid=0),
        SUBJECT,
        "this container lacks CAP_SYS_PTRACE",
        "docker run --cap-add SYS_PTRACE ...",
    ),
    "podman": (
        replace(ROOT_IN_CONTAINER, container="podman"),
        SUBJECT,
        "this container lacks CAP_SYS_PTRACE",
        "podman run --cap-add SYS_PTRACE ...",
    ),
    "kubernetes": (
        replace(ROOT_IN_CONTAINER, container="kubernetes"),
        SUBJECT,
        "this container lacks CAP_SYS_PTRACE",
        "--profile=general",
    ),
    "yama in a container": (
        replace(FACTS, container="docker", yama_ptrace_scope=1),
        SUBJECT,
        "kernel.yama.ptrace_scope is 1",
        "docker run --cap-add SYS_PTRACE ...",
    ),
    "traced": (ROOT, TRACED, "traced by process 77 (gdb) already", "kill 77"),
    "not dumpable": (FACTS, replace(SUBJECT, is_dumpable=False), "not dumpable", SUDO),
    "its capabilities": (
        FACTS,
        replace(SUBJECT, status=STATUS._replace(permitted=1 << 10)),
        "has capabilities that we lack",
        SUDO,
    ),
    "user namespace, root": (
        replace(ROOT, in_user_namespace=True),
        OTHERS,
        "another user namespace",
        "on the host",
    ),
    "user namespace, user": (
        FACTS,
        replace(SUBJECT, same_user_namespace=False),
        "another user namespace",
        SUDO,
    ),
    "seccomp": (
        replace(ROOT, seccomp=2, container="docker"),
        SUBJECT,
        "seccomp",
        "docker run --cap-add SYS_PTRACE ...",
    ),
    "security module": (
        replace(ROOT, security_modules=("capability", "yama", "apparmor")),
        SUBJECT,
        "apparmor forbids it",
        "journalctl",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_reason_and_command(case: str) -> None:
    facts, subject, sentence, hint = CASES[case]
    said, command = caps.explain(facts, subject)
    assert sentence in said
    assert command is not None
    assert hint in command


def test_reasons_differ() -> None:
    said = [caps.explain(facts, subject) for facts, subject, _, _ in CASES.values()]
    assert len(set(said)) == len(said)


def test_our_descendant_may_be_traced_under_yama_1() -> None:
    facts = replace(FACTS, yama_ptrace_scope=1)
    sentence, hint = caps.explain(facts, replace(SUBJECT, is_our_descendant=True))
    assert "yama" not in sentence
    assert hint is None


def test_a_debugger_is_named_only_where_nothing_else_forbids() -> None:
    other = replace(TRACED, status=TRACED.status._replace(uids=(0,) * 4))
    assert "belongs to" in caps.explain(FACTS, other)[0]


def test_facts_of_this_machine() -> None:
    facts = caps.read_facts()
    assert isinstance(facts.has(Capability.SYS_PTRACE), bool)
    assert facts.hidepid == "off" or facts.hidepid


def test_a_process_that_is_gone() -> None:
    sentence, _ = caps.explain_ptrace_denied(2**22 + 1)
    assert "gone" in sentence


def test_lockdown() -> None:
    assert caps.decode_lockdown("none [integrity] confidentiality\n") == "integrity"
    assert caps.decode_lockdown("[none] integrity confidentiality\n") == "none"
    assert caps.decode_lockdown("") is None


def test_uid_map() -> None:
    assert caps.decode_uid_map("         0          0 4294967295\n") == [(0, 0, 0xFFFFFFFF)]
    assert caps.decode_uid_map("0 1000 1\n1 100000 65536\n") == [(0, 1000, 1), (1, 100000, 65536)]


def test_hidepid() -> None:
    line = "22 28 0:21 / /proc rw,nosuid - proc proc rw,hidepid=invisible\n"
    assert caps.decode_hidepid("1 2 0:3 / / rw - ext4 /dev/vda rw\n" + line) == "invisible"
    assert caps.decode_hidepid("22 28 0:21 / /proc rw - proc proc rw\n") == "off"
    assert caps.decode_hidepid("") == "off"


HOST = (
    "28 1 254:1 / / rw - ext4 /dev/vda1 rw\n"
    "90 28 0:50 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw,upperdir=/docker/y\n"
)
DOCKER = (
    "500 400 0:60 / / rw - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A\n"
    "510 500 254:1 /var/lib/docker/containers/0a1b/hosts /etc/hosts rw - ext4 /dev/vda1 rw\n"
)
POD = "510 500 254:1 /var/lib/kubelet/pods/0a/etc-hosts /etc/hosts rw - ext4 /dev/vda1 rw\n"
PODMAN = "500 400 0:60 / / rw - overlay overlay rw,upperdir=/var/lib/containers/storage/overlay/x\n"


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "environment", "dockerenv", "expected"),
    [
        ("0::/init.scope\n", HOST, {}, False, ""),
        ("0::/\n", DOCKER, {}, True, "docker"),
        ("0::/\n", "", {}, True, "docker"),
        ("0::/\n", POD, {}, False, "kubernetes"),
        ("12:cpu:/kubepods/burstable/pod0\n", "", {}, False, "kubernetes"),
        ("0::/\n", "", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False, "kubernetes"),
        ("0::/\n", PODMAN, {}, False, "podman"),
    ],
)
def test_container(
    cgroup: str, mountinfo: str, environment: dict[str, str], dockerenv: bool, expected: str
) -> None:
    found = caps.find_container(
        cgroup, mountinfo, environment, has_dockerenv=dockerenv, has_containerenv=False
    )
    assert found == expected
