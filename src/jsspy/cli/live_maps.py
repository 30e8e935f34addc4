"""Original names and packages in `jsspy top`.

Maps are read by the process that draws, so no sample waits.
"""

from __future__ import annotations

from pathlib import Path

from jsspy.cli.live_text import Update
from jsspy.cli.source_maps import SourceMaps
from jsspy.model.growth import Growth
from jsspy.symbolize.original import LiveMapper


class OriginalNames:
    """Maps the frames that come in to what they were compiled from and what they are part of."""

    def __init__(self, maps: SourceMaps) -> None:
        self._mapper = LiveMapper(maps.directory, maps=maps.wanted)

    def map(self, update: Update) -> Growth:
        """Return what is new, with original places and names."""
        growth = update.growth
        if not growth.frames:
            return growth
        # Those that are gone have no say: they are told of for as long as we run.
        alive = [info for info in update.targets if Path(f"/proc/{info.pid}").exists()]
        self._mapper.follow({info.pid: info.node_version or "" for info in alive})
        pids = [info.pid for info in alive]
        return growth._replace(
            frames=[self._mapper.map_frame(frame, pids) for frame in growth.frames]
        )
