"""Triggers fire when they should, not all the time, and what is kept is bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from jsspy.errors import ExportError, JsspyError
from jsspy.formats import load_profile
from jsspy.formats.native import Native
from jsspy.server import blackbox, stream
from jsspy.server.blackbox import BlackBox, Triggers
from jsspy.server.collector import Collector, Ended
from jsspy.server.sampling import Sampling
from profiles import HOT, MAIN, profile_of, written

SECOND_NS = 1_000_000_000


def feed(collector: Collector, seconds: range, samples: int) -> None:
    """Let a sampler report so many samples of 10 ms in each second."""
    for second in seconds:
        profile = profile_of(*[(MAIN, HOT)] * samples)
        profile.meta.start_ns = second * SECOND_NS
        profile.meta.duration_ns = SECOND_NS
        for index in range(samples):
            profile.time_ns[index] = second * SECOND_NS + index
        collector._take(stream.PROFILE, written(Native(), profile))


def make(tmp_path: Path, triggers: Triggers, keep: int = 20) -> tuple[Collector, BlackBox]:
    collector = Collector(Sampling(pids=(1,)))
    collector.ended = Ended()  # nothing more will come: it need not be waited for
    said: list[str] = []
    return collector, BlackBox(collector, tmp_path / "box", triggers, keep=keep, note=said.append)


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "box").iterdir())


def test_cpu_above_a_share_makes_one_recording(tmp_path: Path) -> None:
    collector, box = make(tmp_path, Triggers(cpu_share=0.5))
    feed(collector, range(1, 21), 40)
    feed(collector, range(21, 50), 80)
    box.close()
    (name,) = names(tmp_path)
    assert name.endswith("-cpu-4242.jsspy")
    profile = load_profile(tmp_path / "box" / name)
    assert len(profile) >= 20 * 40
    assert profile.meta.notes[-1] == "Written because of: cpu-4242."


def test_cpu_below_it_makes_none(tmp_path: Path) -> None:
    collector, box = make(tmp_path, Triggers(cpu_share=0.9))
    feed(collector, range(1, 100), 80)
    box.close()
    assert names(tmp_path) == []


def test_a_reason_that_lasts_fires_again_after_a_pause(tmp_path: Path) -> None:
    collector, box = make(tmp_path, Triggers(cpu_share=0.5))
    feed(collector, range(1, 140), 80)
    box.close()
    assert len(names(tmp_path)) == 1 + (139 - 9) // (blackbox.PAUSE_NS // SECOND_NS)


def test_blocked_loops_and_requests(tmp_path: Path) -> None:
    collector, box = make(tmp_path, Triggers(blocked_s=1))
    with pytest.raises(JsspyError, match="nothing was sampled"):
        box.write("http")
    feed(collector, range(1, 3), 5)
    message = b'{"pid": 7, "blocked_ns": 1500000000}'
    for _ in range(3):
        collector._take(stream.BLOCKED, message)
    path = box.write("http")
    assert load_profile(path).meta.notes[-1] == "Written because of: http."
    box.request("signal")
    box.close()
    reasons = [name.split("-", 3)[3] for name in names(tmp_path)]
    assert sorted(reasons) == ["blocked-7.jsspy", "http.jsspy", "signal.jsspy"]
    text = collector.metrics()[0].decode()
    assert 'jsspy_recordings_total{reason="blocked"} 1.0' in text


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    collector, box = make(tmp_path, Triggers(), keep=3)
    feed(collector, range(1, 3), 5)
    paths = [box.write("http") for _ in range(6)]
    box.close()
    assert [str(tmp_path / "box" / name) for name in names(tmp_path)] == paths[-3:]


def test_a_directory_that_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "box").write_bytes(b"")
    with pytest.raises(ExportError):
        make(tmp_path, Triggers())
