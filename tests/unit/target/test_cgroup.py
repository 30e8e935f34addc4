"""Containers, pods and services out of the names of control groups, as they are in use."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.target.cgroup import NOWHERE, Place, decode_cgroups, read_place

ID = "3f4c1f0e9b6a4d2c8e7f5a1b0c9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c1d"
OUTER = "ab" * 32
UID = "7e2f9a1c-0b3d-4c5e-8f60-1a2b3c4d5e6f"
UNDERSCORED = UID.replace("-", "_")
STATIC = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        # Docker, by cgroupfs and by systemd; in Docker in Docker the inner one counts.
        (f"/docker/{ID}", Place(ID)),
        (f"/system.slice/docker-{ID}.scope", Place(ID)),
        (f"/docker/{OUTER}/docker/{ID}", Place(ID)),
        (f"/system.slice/docker-{ID}.scope/init.scope", Place(ID)),
        # Podman, with and without root.
        (f"/machine.slice/libpod-{ID}.scope/container", Place(ID)),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope", Place(ID)),
        (f"/libpod_parent/libpod-{ID}", Place(ID)),
        # Kubernetes: all classes of service, both drivers, all runtimes.
        (f"/kubepods/burstable/pod{UID}/{ID}", Place(ID, UID)),
        (f"/kubepods/pod{UID}/{ID}", Place(ID, UID)),
        (
            f"/kubepods.slice/kubepods-besteffort-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope",
            Place(ID, UID),
        ),
        (f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/crio-{ID}.scope", Place(ID, UID)),
        (f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/crio-{ID}.scope/app", Place(ID, UID)),
        (f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/docker-{ID}.scope", Place(ID, UID)),
        (f"/kubepods.slice/kubepods-pod{STATIC}.slice/crio-{ID}.scope", Place(ID, STATIC)),
        (
            f"/system.slice/containerd.service/kubepods-pod{UNDERSCORED}.slice:cri-containerd:{ID}",
            Place(ID, UID),
        ),
        # Kubernetes inside of Docker (kind), and what a neighbour's namespace makes of it.
        (f"/docker/{OUTER}/kubelet/kubepods/burstable/pod{UID}/{ID}", Place(ID, UID)),
        (f"/../../pod{UID}/{ID}", Place(ID, UID)),
        (f"/../cri-containerd-{ID}.scope", Place(ID)),
        # Amazon's.
        (f"/ecs/9781c248-0edd-4cdb-9a93-f63cb662a5d3/{ID}", Place(ID)),
        (f"/ecs/{STATIC}/{STATIC}-3447735364", Place(f"{STATIC}-3447735364")),
        # systemd alone.
        ("/system.slice/shop.service", Place(service="shop")),
        ("/system.slice/system-shop.slice/shop@eu.service", Place(service="shop@eu")),
        ("/system.slice/my\\x2dshop.service", Place(service="my-shop")),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service",
            Place(service="shop"),
        ),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/run-7.scope", NOWHERE),
        ("/user.slice/user-1000.slice/session-4.scope", NOWHERE),
        # Nothing of all that.
        ("/", NOWHERE),
        ("/init.scope", NOWHERE),
        (f"/builds/{ID[:40]}", NOWHERE),
        (f"/pod{UID}x", NOWHERE),
    ],
)
def test_paths(path: str, place: Place) -> None:
    assert decode_cgroups(f"0::{path}\n") == place


def test_version_1_has_many_lines() -> None:
    text = (
        f"12:pids:/kubepods/burstable/pod{UID}/{ID}\n11:rdma:/\n"
        "1:name=systemd:/system.slice/kubelet.service\n0::/system.slice/kubelet.service\n"
    )
    assert decode_cgroups(text) == Place(ID, UID)
    assert decode_cgroups("2:cpu,cpuacct:/\n1:name=systemd:/system.slice/a.service\n0::/\n") == (
        Place(service="a")
    )


@given(st.text(alphabet="0123456789abcdef-_./:podslice\n\\x", max_size=300))
def test_anything_is_read(text: str) -> None:
    place = decode_cgroups(text)
    assert len(place.container_id) in {0, 43, 64}
    assert len(place.pod_uid) in {0, 32, 36}


def test_a_process_that_is_gone_is_nowhere() -> None:
    assert read_place((1 << 22) + 1) == NOWHERE
    assert isinstance(read_place(os.getpid()), Place)
