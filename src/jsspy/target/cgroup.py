"""Which container, pod and service a process belongs to, as its control groups are called.

Whoever starts containers puts each into a control group of its own, and the name of that holds the
container's id. There is no standard for these names; those below are what is in use.

    docker      /docker/<id>                        /system.slice/docker-<id>.scope
    podman      /machine.slice/libpod-<id>.scope    /libpod_parent/libpod-<id>
    containerd  /system.slice/containerd.service/kubepods-…-pod<uid>.slice:cri-containerd:<id>
    Kubernetes  /kubepods/burstable/pod<uid>/<id>
                /kubepods.slice/kubepods-pod<uid>.slice/{cri-containerd,crio,docker}-<id>.scope
    ECS         /ecs/<task>/<id>
    systemd     /system.slice/<name>.service

Sources: GetCgroupPath in runc's libcontainer, at v1.1.12; GetPodContainerName and ToSystemd in
Kubernetes' pkg/kubelet/cm, at v1.30.0; cgroup_manager in cri-o's internal/config, at v1.30.0.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_MAX_BYTES = 1 << 16
"""Of /proc/PID/cgroup; with 13 old hierarchies and the longest names it has 56 KB."""

_CONTAINER = re.compile(r"(?:^|[/:.-])([0-9a-f]{64}|[0-9a-f]{32}-[0-9]{10})(?:\.scope)?(?=/|$)")
"""A SHA-256, or Fargate's task and number. The last one: containers may hold containers."""

_POD = re.compile(
    r"(?:^|[/-])pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}"
    r"|[0-9a-f]{32})(?=\.slice|/|$)"
)
"""systemd takes `-` for a level, so it is written `_`. Static pods have a hash."""

_SERVICE = re.compile(r"/([^/]+)\.service(?=/|$)")
_SESSION_MANAGER = re.compile(r"user@\d+")


class Place(NamedTuple):
    """Where a process runs; "" is: in none, or it is not known."""

    container_id: str = ""
    pod_uid: str = ""
    service: str = ""
    """A unit of systemd, without `.service`."""


NOWHERE = Place()


def decode_cgroups(text: str) -> Place:
    """Return what the lines of /proc/PID/cgroup say.

    With version 1 there is a line per hierarchy, and not all of them need to be used.
    """
    place = NOWHERE
    for line in text.splitlines():
        path = line.split(":", 2)[-1]
        containers = _CONTAINER.findall(path)
        pods = _POD.findall(path)
        # In a container, systemd's names are those of whoever runs containers.
        services = [] if containers or pods else _SERVICE.findall(path)
        names = [name for name in services if not _SESSION_MANAGER.fullmatch(name)]
        place = Place(
            place.container_id or (containers[-1] if containers else ""),
            place.pod_uid or (pods[-1].replace("_", "-") if pods else ""),
            place.service or (_unescape(names[-1]) if names else ""),
        )
    return place._replace(service="") if place.container_id else place


def _unescape(name: str) -> str:
    r"""Return a unit's name as people write it: `\x2d` is `-`."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), name)


def read_place(pid: int) -> Place:
    """Return where a process runs; nowhere if it is gone. Everybody may read this."""
    try:
        with open(f"/proc/{pid}/cgroup", "rb") as file:  # noqa: PTH123 - pathlib takes 4 ms to load
            return decode_cgroups(file.read(_MAX_BYTES).decode("utf-8", "replace"))
    except OSError:
        return NOWHERE
