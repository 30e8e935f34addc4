"""Run tests/kernels under other kernels, each booted by qemu, emulated: no privileges, no KVM.

    python tools/try_kernels.py DIRECTORY SUITE[/VERSION]...

SUITE/VERSION is the newest kernel of that version in a suite of Debian: trixie-backports/6.17.
SOURCE is a line for sources.list to take it from elsewhere: others have other versions.

The guest's root directory is ours, read-only, so it has our Python, sources and node binaries.
Kernels land in DIRECTORY; those that are there already are left alone.
"""

from __future__ import annotations

import lzma
import os
import re
import shlex
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

from fetch_distributions import Archive, debian

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "kernels"
TIMEOUT_S = 1800

MODULES = ("virtio_pci", "9pnet_virtio", "9p")
"""What the root directory is mounted with; built into some kernels."""

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
for module in {modules}; do insmod /$module.ko; done
mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 root /root
mount -t proc none /root/proc
mount -t sysfs none /root/sys
mount -t devtmpfs none /root/dev
mount -t tmpfs none /root/run
ip link set lo up
chroot /root "$@"
poweroff -f
"""


class Kernel(NamedTuple):
    """A kernel that can be booted."""

    image: Path
    initramfs: Path


def fetch(directory: Path, wanted: str) -> Kernel:
    """Make sure that a kernel is there."""
    place = directory / wanted.replace("/", "-")
    if not place.exists():
        suite, _, version = wanted.partition("/")
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            root, shell = Path(scratch) / "root", Path(scratch) / "shell"
            archive = Archive(Path(scratch) / "apt", os.environ.get("SOURCE") or debian(suite))
            # The plain ones: others have no 9p (-cloud), or are the same without a signature.
            start = re.escape(version) or "[0-9]+"
            release = f"{start}([-.+][-.+0-9deb]*)?-(amd64|generic|oem)"
            images = archive.find(f"linux-image-(unsigned-)?{release}")
            if not images:
                raise SystemExit(f"{suite} has no Linux {version}")
            release = re.sub("linux-image-(unsigned-)?", "", max(images, key=_numbers))
            parts = f"linux-(image(-unsigned)?|binary|modules)-{re.escape(release)}"
            archive.unpack(archive.find(parts), root)
            Archive(Path(scratch) / "stable", debian("stable")).unpack(["busybox-static"], shell)
            made = Path(scratch) / "made"
            made.mkdir()
            (image,) = [*root.glob("boot/vmlinuz-*"), *root.glob("usr/lib/modules/*/vmlinuz")]
            image.rename(made / "vmlinuz")
            (made / "initramfs").write_bytes(make_initramfs(root, shell / "bin/busybox"))
            made.rename(place)
    return Kernel(place / "vmlinuz", place / "initramfs")


def _numbers(name: str) -> list[int]:
    return list(map(int, re.findall(r"\d+", name)))


def make_initramfs(root: Path, busybox: Path) -> bytes:
    """Return what mounts our root directory and runs a command in it.

    Args:
        root: Unpacked packages of a kernel.
        busybox: One that needs no library.
    """
    files = {
        re.sub(r"\.ko.*", "", path.name).replace("-", "_"): path
        for path in root.glob("usr/lib/modules/*/kernel/**/*.ko*")
    }
    modules: dict[str, bytes] = {}

    def add(name: str) -> None:
        """Add a module behind those that it needs."""
        path = files.pop(name.replace("-", "_"), None)
        if path is None:
            return
        data = path.read_bytes()
        if path.suffix == ".xz":
            data = lzma.decompress(data)
        needed = re.search(rb"\bdepends=([\w,-]+)", data)
        for other in needed[1].decode("ascii").split(",") if needed else ():
            add(other)
        modules[name] = data

    for name in MODULES:
        add(name)
    if "9p" not in modules:
        raise SystemExit("no 9p in the packages of this kernel: archives keep parts of old ones")
    directory, program = 0o40755, 0o100755
    init = INIT.format(modules=" ".join(modules)).encode("ascii")
    return b"".join((
        *(_cpio(name, directory) for name in ("bin", "root")),
        _cpio("bin/busybox", program, busybox.read_bytes()),
        _cpio("init", program, init),
        *(_cpio(f"{name}.ko", program, data) for name, data in modules.items()),
        _cpio("TRAILER!!!", 0),
    ))  # fmt: skip


def _cpio(name: str, mode: int, data: bytes = b"") -> bytes:
    """Return a file of an archive. Source: usr/gen_init_cpio.c, at v6.12."""
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode("ascii") + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def boot(kernel: Kernel, log: Path, results: Path) -> None:
    """Run the tests under a kernel."""
    nodes = os.environ.get("JSSPY_NODES", str(ROOT / ".cache" / "nodes"))
    command = [
        *("/usr/bin/env", f"PATH={os.environ['PATH']}", "HOME=/run", "TMPDIR=/run", "CI=true"),
        *(f"JSSPY_NODES={nodes}", f"PYTHONPATH={ROOT / 'src'}", "PYTHONDONTWRITEBYTECODE=1"),
        *(sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), str(TESTS)),
        *("-p", "no:cacheprovider", "-p", "no:randomly", "-o", f"timeout={TIMEOUT_S}"),
        # Not the console, on which the kernel may write.
        "--junit-xml=/dev/ttyS1",
    ]
    share = "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"
    with log.open("wb") as out:
        subprocess.run(
            [
                *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "3G"),
                *("-kernel", str(kernel.image), "-initrd", str(kernel.initramfs)),
                # What is behind -- are the arguments of /init.
                *("-append", f"console=ttyS0 quiet panic=-1 -- {shlex.join(command)}"),
                *("-virtfs", share, "-nic", "none", "-no-reboot", "-nographic"),
                *("-monitor", "none", "-serial", "stdio", "-serial", f"file:{results}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            check=True,
            timeout=TIMEOUT_S,
        )


def read_results(results: Path) -> tuple[dict[str, str], list[str]]:
    """Return what came of each test and what was measured, by name, and why tests failed."""
    cells, failures = {}, []
    root = ET.parse(results).getroot()  # noqa: S314 - it is what our own tests wrote
    for case in root.iter("testcase"):
        name = re.sub(r"^test_(record\[(.*)\])?", r"\2", case.attrib["name"])
        outcomes = {child.tag: child.get("message", "") for child in case}
        failures += [f"{name}: {text}" for tag, text in outcomes.items() if tag != "skipped"]
        cells[name] = "ok" if not outcomes else "refused" if "skipped" in outcomes else "FAILED"
    for one in root.iter("property"):
        cells[one.attrib["name"]] = one.attrib["value"]
    return cells, failures


def main() -> None:
    """Try every kernel named on the command line, and print a table."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    headings, failures = "", []
    for wanted in sys.argv[2:]:
        kernel = fetch(directory, wanted)
        log, results = kernel.image.with_name("log"), kernel.image.with_name("results.xml")
        results.unlink(missing_ok=True)
        try:
            boot(kernel, log, results)
            cells, failed = read_results(results)
        except (subprocess.SubprocessError, OSError, ET.ParseError) as err:
            cells, failed = {}, [str(err)]
        if cells and not headings:
            headings = " | ".join(("kernel", *cells))
            print("|", headings, "|")
            print("|---" * (1 + len(cells)) + "|")
        print("|", wanted, "|", " | ".join(cells.values()), "|", flush=True)
        failures += [f"{wanted}: {text}\nSee {log}" for text in failed]
    if failures:
        raise SystemExit("\n".join(failures))


if __name__ == "__main__":
    main()
