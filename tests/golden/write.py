"""Write the golden files anew; then read the diff.

PYTHONPATH=src:tests python tests/golden/write.py
"""

from __future__ import annotations

import gzip
from pathlib import Path

from jsspy.formats import FORMATS
from profiles import small, written

# The recording of each version stays as it is: test_native.py reads them. The page is the viewer's.
SKIPPED = {"jsspy", "html"}

for name, form in FORMATS.items():
    if name not in SKIPPED:
        data = written(form, small())
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
        (Path(__file__).parent / f"small.{name}").write_bytes(data)
