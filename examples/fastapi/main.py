"""A service in Python that shows what the Node.js processes beside it are doing.

    pip install jsspy fastapi uvicorn && uvicorn --app-dir examples/fastapi main:app

Then open http://127.0.0.1:8000/jsspy/ for the live flame graph; Prometheus reads /jsspy/metrics.
NODE_PROCESSES is a regular expression for command lines; without it, it is every Node.js process.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

import jsspy


@asynccontextmanager
async def lifespan(service: FastAPI) -> AsyncIterator[None]:
    """Sample for as long as the service runs."""
    with jsspy.start_profiling(name=os.environ.get("NODE_PROCESSES", "")) as profiling:
        # FastAPI's own middleware and dependencies say who may ask.
        service.mount("/jsspy", profiling.asgi())
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/")
def index() -> dict[str, str]:
    """Say where to look."""
    return {"flame graph": "/jsspy/", "metrics": "/jsspy/metrics"}
