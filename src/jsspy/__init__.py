"""jsspy: a sampling profiler for Node.js that runs outside the process it profiles.

    import jsspy

    with jsspy.start_profiling(pid=4121) as profiling, jsspy.start_server(profiling) as server:
        print(server.url)
        print(jsspy.get_metrics(profiling))

What is loaded is loaded when it is first asked for: `import jsspy` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["Profiling", "Server", "__version__", "get_metrics", "start_profiling", "start_server"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load what lives in `jsspy.server.library`."""
    if name not in __all__:
        raise AttributeError(f"module 'jsspy' has no attribute '{name}'")
    return getattr(importlib.import_module("jsspy.server.library"), name)
