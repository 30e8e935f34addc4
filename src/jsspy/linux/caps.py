"""What decides whether the kernel lets us look: capabilities, sysctls, namespaces, containers.

`read_facts` gathers, `explain` decides (pure), `explain_ptrace_denied` does both for one pid. The
order of the checks follows the kernel's own. Source: kernel/ptrace.c, __ptrace_may_access and
ptrace_attach; security/commoncap.c, cap_ptrace_access_check; security/yama/yama_lsm.c, at v6.12.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from jsspy.errors import PermissionDenied
from jsspy.linux import procfs
from jsspy.linux.procfs import Status


class Capability(IntEnum):
    """Bit numbers. Source: include/uapi/linux/capability.h, at v6.12."""

    SYS_PTRACE = 19
    SYS_ADMIN = 21
    SYSLOG = 34
    PERFMON = 38
    """Linux 5.8; SYS_ADMIN before."""
    BPF = 39
    """Linux 5.8; SYS_ADMIN before."""
    CHECKPOINT_RESTORE = 40
    """Linux 5.9; SYS_ADMIN before."""


_INITIAL_USER_NAMESPACE = (0, 0, 0xFFFFFFFF)
"""uid_map of the initial user namespace: every uid is itself."""

_CONTAINER_MARKS = (
    ("kubepods", "kubernetes"),
    ("/kubelet/pods/", "kubernetes"),
    ("libpod", "podman"),
    ("/containers/storage/", "podman"),
    ("/docker/", "docker"),
    ("docker-", "docker"),
    ("containerd", "containerd"),
    ("/lxc", "lxc"),
)

_OWN_MOUNTS = (["/"], ["/etc/hosts"], ["/etc/hostname"], ["/etc/resolv.conf"])


@dataclass(frozen=True, slots=True)
class Facts:
    """This machine and this process of ours. None: the kernel has no such thing, or hides it."""

    uid: int
    effective: int
    """Our effective capabilities, a bit mask."""
    yama_ptrace_scope: int | None
    perf_event_paranoid: int | None
    kptr_restrict: int | None
    unprivileged_bpf_disabled: int | None
    lockdown: str | None
    """none, integrity or confidentiality."""
    seccomp: int
    """0 off, 1 strict, 2 filter."""
    in_user_namespace: bool
    """We are in a user namespace of our own: our capabilities end at its border."""
    container: str
    """docker, podman, kubernetes, containerd, lxc; "" outside of containers."""
    hidepid: str
    """How /proc hides other users' processes: off, 0, noaccess, invisible, ptraceable, ..."""
    security_modules: tuple[str, ...]
    linux: tuple[int, ...]
    """Version of the kernel, two numbers."""

    def has(self, capability: Capability) -> bool:
        """Whether we have a capability in our own user namespace."""
        return bool(self.effective >> capability & 1)


@dataclass(frozen=True, slots=True)
class Subject:
    """The process that we were not allowed to look at."""

    pid: int
    status: Status
    is_dumpable: bool
    is_our_descendant: bool
    same_user_namespace: bool | None
    """None: not known, because we may not look."""
    tracer_name: str = ""


def read_facts() -> Facts:
    """Gather what decides about permissions on this machine."""
    status = procfs.read_status(os.getpid()) or Status()
    mounts = _read_text("/proc/self/mountinfo")
    return Facts(
        uid=os.geteuid(),
        effective=status.effective,
        yama_ptrace_scope=_read_int("/proc/sys/kernel/yama/ptrace_scope"),
        perf_event_paranoid=_read_int("/proc/sys/kernel/perf_event_paranoid"),
        kptr_restrict=_read_int("/proc/sys/kernel/kptr_restrict"),
        unprivileged_bpf_disabled=_read_int("/proc/sys/kernel/unprivileged_bpf_disabled"),
        lockdown=decode_lockdown(_read_text("/sys/kernel/security/lockdown")),
        seccomp=status.seccomp,
        in_user_namespace=decode_uid_map(_read_text("/proc/self/uid_map"))
        != [_INITIAL_USER_NAMESPACE],
        container=find_container(
            _read_text("/proc/1/cgroup"),
            mounts,
            os.environ,
            has_dockerenv=Path("/.dockerenv").exists(),
            has_containerenv=Path("/run/.containerenv").exists(),
        ),
        hidepid=decode_hidepid(mounts),
        security_modules=tuple(
            filter(None, _read_text("/sys/kernel/security/lsm").strip().split(","))
        ),
        linux=tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])),
    )


def decode_lockdown(text: str) -> str | None:
    """Decode `none [integrity] confidentiality`."""
    _, bracket, rest = text.partition("[")
    return rest.partition("]")[0] if bracket else None


def decode_uid_map(text: str) -> list[tuple[int, ...]]:
    """Decode `/proc/PID/uid_map`: (first id inside, first id outside, count) each."""
    lines = [line.split() for line in text.splitlines()]
    return [tuple(map(int, words)) for words in lines if all(map(str.isdigit, words))]


def decode_hidepid(mountinfo: str) -> str:
    """Return the hidepid option of the /proc that we see; "off" if it has none."""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        words = fields.split()
        if len(words) > 4 and words[4] == "/proc" and rest.startswith("proc "):
            for option in rest.split()[-1].split(","):
                if option.startswith("hidepid="):
                    return option.removeprefix("hidepid=")
    return "off"


def find_container(
    cgroup: str,
    mountinfo: str,
    environment: Mapping[str, str],
    *,
    has_dockerenv: bool,
    has_containerenv: bool,
) -> str:
    """Name the kind of container we run in; "" if it looks like none.

    Args:
        cgroup: /proc/1/cgroup. With cgroup namespaces it says nothing.
        mountinfo: /proc/self/mountinfo. Engines bind files of their own over /etc/hosts; a host
            shows the mounts of its containers, too, but not there.
        environment: Our own.
        has_dockerenv: /.dockerenv exists.
        has_containerenv: /run/.containerenv exists.
    """
    if "KUBERNETES_SERVICE_HOST" in environment:
        return "kubernetes"
    lines = [line for line in mountinfo.splitlines() if line.split()[4:5] in _OWN_MOUNTS]
    text = "\n".join([cgroup, *lines])
    for mark, kind in _CONTAINER_MARKS:
        if mark in text:
            return kind
    if has_containerenv:
        return "podman"
    return "docker" if has_dockerenv else ""


def read_subject(pid: int) -> Subject | None:
    """Gather what decides whether we may look at process `pid`; None if it is gone or hidden."""
    status = procfs.read_status(pid)
    if status is None:
        return None
    try:
        owner = Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None
    try:
        same = Path(f"/proc/{pid}/ns/user").readlink() == Path("/proc/self/ns/user").readlink()
    except OSError:
        same = None
    return Subject(
        pid=pid,
        status=status,
        # /proc/PID of a process that must not be dumped belongs to root. Source: proc(5).
        is_dumpable=len(status.uids) < 2 or owner == status.uids[1],
        is_our_descendant=_is_descendant(status.parent),
        same_user_namespace=same,
        tracer_name=_read_text(f"/proc/{status.tracer}/comm").strip() if status.tracer else "",
    )


def _is_descendant(parent: int) -> bool:
    """Whether a process with this parent descends from us."""
    us = os.getpid()
    for _ in range(1000):
        if parent == us:
            return True
        stat = procfs.read_stat(parent) if parent > 1 else None
        if stat is None:
            return False
        parent = stat.parent
    return False


def explain(facts: Facts, subject: Subject) -> tuple[str, str | None]:
    """Say why ptrace access to a process is denied, and which command mends that.

    Returns:
        (a sentence, the command or None).
    """
    pid = subject.pid
    sudo = f"sudo jsspy record --pid {pid}"
    if facts.yama_ptrace_scope == 3:
        return (
            "kernel.yama.ptrace_scope is 3: nobody may trace, not even root, until the next boot",
            "set kernel.yama.ptrace_scope=1 in /etc/sysctl.d and reboot",
        )
    if not facts.has(Capability.SYS_PTRACE):
        reason = _unprivileged_reason(facts, subject)
        if reason is not None:
            if facts.container:
                return f"{reason}, and this container lacks CAP_SYS_PTRACE", _in_container(facts)
            if facts.uid == 0:
                return f"{reason}, and CAP_SYS_PTRACE was taken away from us", None
            if facts.yama_ptrace_scope == 1 and reason.startswith("kernel.yama"):
                return reason, f"{sudo}    or start it under us: jsspy record -- node server.js"
            return reason, sudo
    elif facts.in_user_namespace and subject.same_user_namespace is not True:
        return (
            f"{pid} is in another user namespace, where our capabilities do not count",
            "run jsspy outside of the user namespace (on the host, as root)",
        )
    if subject.status.tracer:
        tracer = f"process {subject.status.tracer}"
        if subject.tracer_name:
            tracer += f" ({subject.tracer_name})"
        return (
            f"{pid} is traced by {tracer} already, and a process has one tracer at a time",
            f"end the debugger or tracer first: kill {subject.status.tracer}",
        )
    if facts.seccomp == 2:
        return "a seccomp filter on us forbids it", (
            _in_container(facts) if facts.container else None
        )
    modules = [name for name in facts.security_modules if name in ("apparmor", "selinux", "smack")]
    if modules:
        return (
            f"uid, capabilities and yama allow it, so {' or '.join(modules)} forbids it",
            "sudo journalctl -k --grep 'ptrace|avc'",
        )
    return "the kernel gives no reason that can be seen from here", None


def _unprivileged_reason(facts: Facts, subject: Subject) -> str | None:
    """Return what stands against ptrace without CAP_SYS_PTRACE; None if nothing that we see."""
    pid, status = subject.pid, subject.status
    others = [uid for uid in status.uids[:3] if uid != facts.uid]
    if others:
        return f"{pid} belongs to {_user(others[0])}, and we are {_user(facts.uid)}"
    if not subject.is_dumpable:
        return (
            f"{pid} is protected from tracing (not dumpable: "
            "it changed its privileges, or its executable may not be read)"
        )
    if status.permitted & ~facts.effective:
        return f"{pid} has capabilities that we lack (see getpcaps {pid})"
    if subject.same_user_namespace is False:
        return f"{pid} is in another user namespace"
    if facts.yama_ptrace_scope == 1 and not subject.is_our_descendant:
        return f"kernel.yama.ptrace_scope is 1 and {pid} is not our child"
    if facts.yama_ptrace_scope == 2:
        return "kernel.yama.ptrace_scope is 2: only root may trace"
    return None


def _in_container(facts: Facts) -> str:
    if facts.container == "kubernetes":
        return (
            "kubectl debug -it POD --image=IMAGE --target=CONTAINER --profile=general"
            "    (or --profile=sysadmin)"
        )
    program = "podman" if facts.container == "podman" else "docker"
    return f"{program} run --cap-add SYS_PTRACE ..."


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"uid {uid}"


def explain_ptrace_denied(pid: int) -> tuple[str, str | None]:
    """Say why ptrace access to `pid` is denied, and which command mends that."""
    subject = read_subject(pid)
    if subject is None:
        return f"{pid} is gone, or hidden from us", hint_hidden_processes()
    return explain(read_facts(), subject)


def permission_denied(pid: int) -> PermissionDenied:
    """Return the exception that tells the user why `pid` may not be looked at."""
    sentence, hint = explain_ptrace_denied(pid)
    return PermissionDenied(
        f"cannot attach to process {pid}{_command(pid)}: operation not permitted\n  {sentence}.",
        hint=hint,
    )


def _command(pid: int) -> str:
    """Return " (node server.js)", or "" where it cannot be read."""
    words = procfs.decode_command(_read_bytes(f"/proc/{pid}/cmdline", 4096))
    if not words:
        return ""
    text = " ".join([words[0].rpartition("/")[2], *words[1:]])
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return f" ({text if len(text) <= 60 else text[:57] + '...'})"


def hint_hidden_processes() -> str | None:
    """Return what to do where /proc hides other users' processes; None where it does not."""
    hidepid = decode_hidepid(_read_text("/proc/self/mountinfo"))
    if hidepid in ("off", "0") or os.geteuid() == 0:
        return None
    return f"/proc is mounted with hidepid={hidepid} and hides other users' processes: use sudo"


def _read_bytes(path: str, limit: int = 1 << 20) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(limit)
    except OSError:
        return b""


def _read_text(path: str) -> str:
    return _read_bytes(path).decode("utf-8", "replace")


def _read_int(path: str) -> int | None:
    try:
        return int(_read_text(path))
    except ValueError:
        return None


def explain_bpf_refused(code: int, message: str, needed: tuple[int, int]) -> tuple[str, str | None]:
    """Say why bpf(2) was refused, and which command mends that.

    Args:
        code: errno.
        message: What to say if nothing better is known.
        needed: The first version of Linux that has all that was asked for. Distributions bring
            some of it to older ones, so it is tried first.
    """
    return decide_bpf_refused(read_facts(), code, message, needed)


def decide_bpf_refused(
    facts: Facts, code: int, message: str, needed: tuple[int, int]
) -> tuple[str, str | None]:
    """Say why bpf(2) was refused; see `explain_bpf_refused`.

    Source: kernel/bpf/syscall.c, __sys_bpf and bpf_prog_load; kernel/trace/bpf_trace.c,
    bpf_tracing_func_proto; kernel/bpf/verifier.c, fixup_call_args, at v6.12.
    """
    sudo = "sudo jsspy record ..."
    if code == errno.ENOSYS:
        return "this kernel has no bpf(2), or a sandbox hides it", None
    if code in (errno.EPERM, errno.EACCES):
        has_bpf = facts.has(Capability.BPF) or facts.has(Capability.SYS_ADMIN)
        has_perfmon = facts.has(Capability.PERFMON) or facts.has(Capability.SYS_ADMIN)
        if facts.in_user_namespace:
            return (
                "in a user namespace capabilities do not count for bpf(2)",
                "run jsspy outside of the user namespace (on the host, as root)",
            )
        if not (has_bpf and has_perfmon):
            lacking = " and ".join(
                name
                for name, has in (("CAP_BPF", has_bpf), ("CAP_PERFMON", has_perfmon))
                if not has
            )
            if facts.container:
                program = "podman" if facts.container == "podman" else "docker"
                added = "--cap-add BPF --cap-add PERFMON --cap-add SYS_PTRACE"
                return f"this container lacks {lacking}", f"{program} run {added} ..."
            disabled = facts.unprivileged_bpf_disabled
            setting = f" (kernel.unprivileged_bpf_disabled is {disabled})" if disabled else ""
            return f"we lack {lacking}{setting}", sudo
        if facts.seccomp == 2:
            return "a seccomp filter on us forbids bpf(2)", None
    if facts.linux < needed:
        has, needs = (".".join(map(str, version)) for version in (facts.linux, needed))
        return f"this kernel is too old: it is Linux {has}, and {needs} is needed", None
    if facts.lockdown == "confidentiality":
        # EINVAL: helpers that read are then unknown to the verifier.
        return (
            "kernel lockdown is set to confidentiality: BPF programs may not read memory",
            "boot without lockdown=confidentiality",
        )
    if "non-JITed" in message:
        # The verifier's words where it meets bpf_loop. In containers the setting is not to be seen.
        return (
            "the kernel's compiler for BPF programs is off (net.core.bpf_jit_enable is 0)",
            "sudo sysctl net.core.bpf_jit_enable=1",
        )
    return message, None


def explain_perf_refused(code: int, message: str, *, kernel: bool) -> tuple[str, str | None]:
    """Say why perf_event_open(2) was refused with errno `code`, and which command mends that.

    Args:
        code: errno.
        message: What to say if nothing better is known.
        kernel: The event was to see the kernel, too.
    """
    return decide_perf_refused(read_facts(), code, message, kernel=kernel)


def decide_perf_refused(
    facts: Facts, code: int, message: str, *, kernel: bool
) -> tuple[str, str | None]:
    """Say why perf_event_open(2) was refused; see `explain_perf_refused`.

    Source: kernel/events/core.c, sys_perf_event_open, at v6.12.
    """
    if code == errno.ENOSYS:
        return "this kernel has no perf events, or a sandbox hides them", None
    if code in (errno.EPERM, errno.EACCES):
        paranoid = facts.perf_event_paranoid
        if facts.has(Capability.PERFMON) or facts.has(Capability.SYS_ADMIN):
            if facts.seccomp == 2:
                program = "podman" if facts.container == "podman" else "docker"
                hint = f"{program} run --security-opt seccomp=unconfined ..."
                return "a seccomp filter on us forbids perf_event_open(2)", (
                    hint if facts.container else None
                )
            return "the process may not be looked at", "sudo jsspy record ..."
        allowed = 1 if kernel else 2
        if paranoid is not None and paranoid > allowed:
            return (
                f"kernel.perf_event_paranoid is {paranoid} and we lack CAP_PERFMON",
                f"sudo sysctl kernel.perf_event_paranoid={allowed}",
            )
        if facts.seccomp == 2:
            return "a seccomp filter on us forbids perf_event_open(2)", None
        return "the process belongs to somebody else", "sudo jsspy record ..."
    return message, None
