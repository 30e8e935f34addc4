"""jsspy: a sampling profiler for Node.js that runs outside the process it profiles."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
