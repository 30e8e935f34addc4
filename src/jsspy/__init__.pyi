# What `jsspy.__getattr__` loads, for type checkers.
from jsspy.server.library import Profiling, Server, get_metrics, start_profiling, start_server

__all__ = ["Profiling", "Server", "__version__", "get_metrics", "start_profiling", "start_server"]

__version__: str
