"""An unreachable server loses nothing within the bound; beyond it, what is lost is said."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path

import pytest

from jsspy.errors import ExportError
from jsspy.exporters.prometheus import encode_metrics
from jsspy.exporters.push import PushCollector, Spool, Upload, Uploader
from receiver import receiving


def upload(number: int, size: int = 10) -> Upload:
    return Upload(f"/push?n={number}", "text/plain", bytes([65 + number % 26]) * size)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def soon(longest_s: float) -> float:
    """Draw pauses for tests."""
    return min(longest_s, 1.0) / 100


def test_uploads_arrive_in_order_with_their_headers(tmp_path: Path) -> None:
    with receiving() as receiver:
        uploader = Uploader(
            receiver.url + "/", Spool(tmp_path / "spool"), headers={"Authorization": "Bearer x"}
        )
        for number in range(5):
            uploader.add(upload(number))
        receiver.wait(5)
        uploader.close()
    assert [one.path for one in receiver.accepted] == [f"/push?n={n}" for n in range(5)]
    assert receiver.accepted[2].body == b"C" * 10
    assert receiver.accepted[2].headers["authorization"] == "Bearer x"
    assert receiver.accepted[2].headers["content-type"] == "text/plain"
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["lock"]
    assert uploader.stats.sent == 5


def test_nothing_is_lost_while_the_server_is_away(tmp_path: Path) -> None:
    port = closed_port()
    said: list[str] = []
    spool = Spool(tmp_path / "spool")
    uploader = Uploader(f"http://127.0.0.1:{port}", spool, note=said.append, draw=soon)
    for number in range(8):
        uploader.add(upload(number))
    end = time.monotonic() + 30
    while not uploader.stats.retries:
        assert time.monotonic() < end
        time.sleep(0.01)
    with receiving(port) as receiver:
        receiver.wait(8)
    uploader.close()
    assert [one.path for one in receiver.accepted] == [f"/push?n={n}" for n in range(8)]
    assert len(said) == 2, said
    assert "fails" in said[0]
    assert "works again" in said[1]
    assert spool.dropped == 0


def test_nothing_is_lost_when_we_end(tmp_path: Path) -> None:
    said: list[str] = []
    uploader = Uploader(
        f"http://127.0.0.1:{closed_port()}", Spool(tmp_path / "spool"), note=said.append
    )
    for number in range(3):
        uploader.add(upload(number))
    uploader.close(timeout_s=2)
    assert "3 uploads stay" in said[-1]
    with receiving() as receiver:
        uploader = Uploader(receiver.url, Spool(tmp_path / "spool"))
        receiver.wait(3)
        uploader.close()
    assert [one.path for one in receiver.accepted] == [f"/push?n={n}" for n in range(3)]


def test_what_is_beyond_the_bound_is_dropped_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    spool = Spool(tmp_path / "spool", max_bytes=5000)
    uploader = Uploader(f"http://127.0.0.1:{closed_port()}", spool, note=said.append)
    for number in range(20):
        uploader.add(upload(number, 1000))
        assert spool.size <= 5000 + 1100
    assert 14 <= spool.dropped <= 17
    assert f"({spool.dropped} so far)" in said[-1]
    text = encode_metrics([PushCollector([uploader])], "")[0].decode()
    assert f'result="dropped",url="{uploader.url}"}} {spool.dropped}.0' in text
    uploader.close(timeout_s=1)
    kept = [json.loads(path.read_bytes().partition(b"\n")[0])["path"]
            for path in sorted((tmp_path / "spool").glob("*.push"))]  # fmt: skip
    assert kept[-1] == "/push?n=19"
    assert len(kept) + spool.dropped == 20


def test_what_the_server_cannot_do_now_is_tried_again(tmp_path: Path) -> None:
    with receiving() as receiver:
        receiver.status = 503
        uploader = Uploader(receiver.url, Spool(tmp_path / "spool"), draw=soon)
        uploader.add(upload(0))
        receiver.wait(3, refused=True)
        receiver.status = 200
        receiver.wait(1)
        uploader.close()
    assert uploader.stats.retries >= 3
    assert uploader.stats.rejected == 0


def test_what_the_server_will_never_take_is_not_tried_again(tmp_path: Path) -> None:
    said: list[str] = []
    with receiving() as receiver:
        receiver.status = 400
        uploader = Uploader(receiver.url, Spool(tmp_path / "spool"), note=said.append)
        uploader.add(upload(0))
        receiver.wait(1, refused=True)
        uploader.close()
    assert uploader.stats.rejected == 1
    assert len(receiver.refused) == 1
    assert "refused for good: 400" in said[0]


def test_pauses_grow_up_to_a_bound(tmp_path: Path) -> None:
    longest: list[float] = []

    def draw(longest_s: float) -> float:
        longest.append(longest_s)
        return 0.001

    with receiving() as receiver:
        receiver.status = 503
        uploader = Uploader(receiver.url, Spool(tmp_path / "spool"), draw=draw)
        uploader.add(upload(0))
        receiver.wait(9, refused=True)
        uploader.close()
    assert longest[:8] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_two_processes_do_not_share_a_spool(tmp_path: Path) -> None:
    first, second = Spool(tmp_path / "spool"), Spool(tmp_path / "spool")
    assert first.directory != second.directory
    first.close()
    third = Spool(tmp_path / "spool")
    assert third.directory == tmp_path / "spool"
    second.close()
    third.close()


def test_damaged_files_are_left_out(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.close()
    for name, data in {"0": b"", "1": b"{}\n", "2": b"[1]\nx", "3": b"\xff\n"}.items():
        (tmp_path / "spool" / f"{name}.push").write_bytes(data)
    spool = Spool(tmp_path / "spool")
    assert spool.take() is None
    assert spool.dropped == 4
    spool.close()


def test_what_cannot_work_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ExportError):
        Spool(tmp_path / "file" / "spool")
    spool = Spool(tmp_path / "spool")
    with contextlib.closing(spool), pytest.raises(ExportError):
        Uploader("ftp://x", spool)
