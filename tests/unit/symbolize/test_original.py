"""Source mapping of a frame table: where maps are found, what is mapped, what is not."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.linux.files import RootDirectory
from jsspy.model.names import display_name, display_place
from jsspy.model.profile import Profile
from jsspy.model.stack import Frame, FrameKind, Location
from jsspy.symbolize import original
from jsspy.symbolize.original import MappingStats, PastScripts, ScriptLog, map_frames
from maps import Segment, encode

CODE = "function a(b){return b(c=>c)}var d=e=>e+1,f=function(g){};\n"
"""Of these a, d and f are functions whose names are certain; `c=>c` is nameless."""

NAMED: Sequence[Sequence[Segment]] = [
    [
        (0, 0, 9, 0, None),
        (9, 0, 9, 9, 0),  # a is outer
        (11, 0, 9, 15, 1),  # b is callback
        (25, 0, 10, 11, 2),  # c is item
        (33, 0, 20, 6, 3),  # d is double
        (35, 0, 20, 15, 4),  # e is value
        (42, 0, 30, 6, 5),  # f is third
    ]
]
NAMES = ["outer", "callback", "item", "double", "value", "third"]


def source_map(mappings: str, **fields: object) -> bytes:
    tree = {"version": 3, "sources": ["../src/x.ts"], "names": NAMES, "mappings": mappings}
    return json.dumps(tree | fields).encode()


def frame(
    name: str,
    url: str,
    at: tuple[int, int],
    defined: tuple[int, int] | None = None,
    script_id: int = 7,
) -> Frame:
    return Frame(
        name,
        FrameKind.JS,
        location=Location(url, *at),
        definition=Location(url, *(defined or at)),
        script_id=script_id,
    )


class Script:
    """What `ScriptLog` and `map_frames` use of `v8.function.Script`."""

    def __init__(self, url: str, text: str, mapping_url: str = "", script_id: int = 7) -> None:
        self.url = url
        self.id = script_id
        self.text = text
        self.source_mapping_url = mapping_url
        self.line_offset = self.column_offset = 0

    def source(self) -> str:
        return self.text


class Functions:
    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self.scripts_read = len(scripts)

    def scripts(self) -> list[Script]:
        return list(self._scripts)


def logged(*scripts: Script) -> ScriptLog:
    log = ScriptLog(os.getpid())
    log.update(Functions(*scripts))  # type: ignore[arg-type]  # has what is used of it
    return log


def mapped(
    frames: Sequence[Frame], *logs: ScriptLog | PastScripts, directory: Path | None = None
) -> tuple[list[Frame], MappingStats]:
    profile = Profile()
    for one in frames:
        profile.intern_frame(one)
    stats = map_frames(profile, logs, str(directory) if directory is not None else None)
    for index, one in enumerate(profile.frames):
        assert profile.intern_frame(one) == index
    return profile.frames, stats


def test_positions_names_and_definitions(tmp_path: Path) -> None:
    url = str(tmp_path / "dist" / "x.js")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "x.js.map").write_bytes(source_map(encode(NAMED)))
    frames = [
        frame("a", url, (1, 15), (1, 11)),
        frame("", url, (1, 29), (1, 26)),
        frame("d", url, (1, 39), (1, 36)),
        frame("f", url, (1, 56), (1, 53)),
        frame("a", url, (2, 1), (2, 1)),
    ]
    result, stats = mapped(frames, logged(Script(url, CODE, "x.js.map")))
    source = str(tmp_path / "src" / "x.ts")
    assert [one.original for one in result] == [
        Location(source, 10, 16),
        Location(source, 11, 12),
        Location(source, 21, 16),
        Location(source, 31, 7),
        None,
    ]
    assert [one.original_name for one in result] == ["outer", None, "double", "third", None]
    assert display_name(result[0]) == f"outer {source}:10"
    assert display_place(result[1]) == f"{source}:11"
    assert [one.location for one in result] == [one.location for one in frames]
    assert [one.name for one in result] == ["a", "", "d", "f", "a"]
    assert (stats.frames, stats.maps, stats.missing) == (4, 1, [])
    assert stats.describe() == "4 frames mapped, 0 maps missing"


@pytest.mark.parametrize(
    ("before", "name", "distance"),
    [
        ("function a", "a", 1),
        ("function   longer  ", "longer", 8),
        ("async function*gen", "gen", 3),
        ("{get(){},put", "put", 3),
        ("a=function", "a", 10),
        ("a=async function* ", "a", 18),
        ("const a = ", "a", 4),
        ("{a:async ", "a", 8),
        ("/*\U0001f525*/a=", "a", 2),
        ("\U0001d4b3=", "\U0001d4b3", 3),
        # Somebody else's name, or none.
        ("o.a=", "a", None),
        ("this.#a", "a", None),
        ("ba", "a", None),
        ("map(function", "map", None),
        ("f(a,function", "f", None),
        ("(b,", "b", None),
        ("a==", "a", None),
        ("", "a", None),
    ],
)
def test_a_name_is_believed_only_directly_in_front(
    before: str, name: str, distance: int | None
) -> None:
    assert original._find_name(before, name) == distance


def test_without_text_no_name_is_believed() -> None:
    url = "/nowhere/x.js"
    data = base64.b64encode(source_map(encode(NAMED))).decode()
    script = Script(url, CODE, f"data:application/json;base64,{data}")
    log = logged(script)
    log.detach()
    (result,), _ = mapped([frame("a", url, (1, 15), (1, 11))], log)
    assert result.original == Location("/src/x.ts", 10, 16)
    assert result.original_name is None


@pytest.mark.parametrize("is_base64", [True, False])
def test_data_urls(is_base64: bool) -> None:
    data = source_map(encode(NAMED), sources=["x.ts"])
    text = base64.b64encode(data).decode() if is_base64 else quote(data)
    head = "data:application/json;charset=utf-8" + (";base64" if is_base64 else "")
    url = "file:///app/my%20dist/x.mjs"
    log = logged(Script(url, CODE, f"{head},{text}"))
    (result,), stats = mapped([frame("a", url, (1, 15), (1, 11))], log)
    assert result.original == Location("/app/my dist/x.ts", 10, 16)
    assert result.original_name == "outer"
    assert stats.maps == 1


def test_the_trailer_counts_where_v8_did_not_keep_it(tmp_path: Path) -> None:
    (tmp_path / "x.js.map").write_bytes(source_map(encode(NAMED)))
    url = str(tmp_path / "x.js")
    for trailer, maps in {
        "//# sourceMappingURL=x.js.map": 1,
        "//@ sourceMappingURL=x.js.map\n// more\n\n": 1,
        "f('//# sourceMappingURL=x.js.map')": 0,
        "//# sourceMappingURL=x.js.map\ncode();": 0,
    }.items():
        _, stats = mapped([frame("a", url, (1, 15))], logged(Script(url, CODE + trailer)))
        assert stats.maps == maps, trailer


def test_missing_broken_and_remote_maps_are_told_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "broken.map").write_text("{")
    (tmp_path / "fifo.map").symlink_to("/dev/zero")
    urls = {
        "gone.map": "no such file or directory",
        "broken.map": "broken (not JSON)",
        "fifo.map": "not a regular file",
        "https://example.org/x.js.map": "not a file",
        "data:nonsense": "no comma",
    }
    frames, scripts = [], []
    for number, mapping_url in enumerate(urls):
        url = str(tmp_path / f"{number}.js")
        frames.append(frame("a", url, (1, 15), script_id=number))
        scripts.append(Script(url, CODE, mapping_url, number))
    result, stats = mapped(frames, logged(*scripts))
    assert result == frames
    assert stats.frames == stats.maps == 0
    for reason in urls.values():
        assert sum(reason in text for text in stats.missing) == 1, reason
    assert stats.describe().startswith("0 frames mapped, 5 maps missing (")
    assert stats.describe().endswith(", …)")


def test_a_directory_stands_in_for_what_is_missing(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    for part in ("one", "two"):
        (maps / part).mkdir(parents=True)
        sources = [f"{part}.ts"]
        (maps / part / "index.js.map").write_bytes(source_map(encode(NAMED), sources=sources))
    (maps / "only.js.map").write_bytes(source_map(encode(NAMED), sources=["only.ts"]))
    scripts = [
        Script("/srv/two/index.js", CODE, "https://cdn.example.org/index.js.map", 1),
        Script("/srv/three/index.js", CODE, "index.js.map", 2),
        Script("/srv/only.js", CODE, "", 3),
        Script("/srv/node_modules/p/only.js", CODE, "", 4),
    ]
    frames = [frame("a", script.url, (1, 15), script_id=script.id) for script in scripts]
    result, stats = mapped(frames[:3], logged(*scripts), directory=maps)
    assert [one.original and one.original.url for one in result] == [
        "/srv/two/two.ts",
        None,
        "/srv/only.ts",
    ]
    assert stats.missing == ["/srv/three/index.js.map: no such file or directory"]
    # Two scripts of that name, and neither says that the map is its own.
    result, _ = mapped(frames, logged(*scripts), directory=maps)
    assert [one.original for one in result[2:]] == [None, None]


def test_scripts_that_are_not_told_apart_are_not_mapped() -> None:
    data = "data:," + quote(source_map(encode(NAMED)))
    frames = [frame("a", "", (1, 15))]
    one, other = logged(Script("", CODE, data)), logged(Script("", "other()", ""))
    assert mapped(frames, one)[0][0].original is not None
    assert mapped(frames, one, other)[0] == frames


def test_old_modules_are_shifted_by_their_wrapper() -> None:
    text = original._WRAPPER + CODE + "\n});"
    shift = len(original._WRAPPER)
    data = "data:," + quote(source_map(encode([*NAMED, [(0, 0, 50, 0, None)]])))
    frames = [frame("a", "/x.js", (1, 15 + shift), (1, 11 + shift)), frame("", "/x.js", (2, 1))]
    result, _ = mapped(frames, logged(Script("/x.js", text, data)))
    assert result[0].original == Location("/src/x.ts", 10, 16)
    assert result[0].original_name == "outer"
    assert result[1].original == Location("/src/x.ts", 51, 1)


def test_files_are_those_of_the_target(tmp_path: Path) -> None:
    inside = tmp_path / "root"
    inside.mkdir()
    (inside / "x").write_text("inside")
    (inside / "absolute").symlink_to("/x")
    (inside / "up").symlink_to("../../../../../x")
    (tmp_path / "x").write_text("outside")
    root = RootDirectory(os.getpid())
    os.close(root._fd)
    root._fd = os.open(inside, os.O_PATH)
    try:
        for path in ("/x", "/../x", "/absolute", "/up"):
            assert root.read(path, 100) == b"inside", path
        for path, limit in {"/": 100, "/gone": 100, "/x": 3, "/x\0": 100}.items():
            with pytest.raises(OSError):  # noqa: PT011 - any errno
                root.read(path, limit)
    finally:
        root.close()


def count_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_of_processes_that_ended_what_is_the_same_is_kept_once(tmp_path: Path) -> None:
    url = str(tmp_path / "x.js")
    (tmp_path / "x.js").write_text(CODE)
    (tmp_path / "x.js.map").write_bytes(source_map(encode(NAMED)))
    past = PastScripts()
    before = count_descriptors()
    for pid in range(100):
        log = logged(Script(url, CODE, "x.js.map"))
        log.pid = pid
        past.add(log)
        assert log.root is None
        log.close()
    assert len(past.scripts) == 1
    assert len(past.roots) == 100
    assert count_descriptors() == before + 1
    frames = [frame("a", url, (1, 15), (1, 11))]
    _, stats = mapped(frames, past)
    assert (stats.maps, stats.frames) == (1, 1)
    # Not gone, but read no more.
    assert all(noted.script is None for noted in past.scripts.values())
    past.close()
    assert count_descriptors() == before


def test_scripts_of_processes_that_ended_are_not_mixed_up(tmp_path: Path) -> None:
    url = str(tmp_path / "x.js")
    (tmp_path / "x.js.map").write_bytes(source_map(encode(NAMED)))
    frames = [frame("a", url, (1, 15), (1, 11))]
    past = PastScripts()
    for mapping_url in ("x.js.map", "other.map", "x.js.map"):
        past.add(logged(Script(url, CODE, mapping_url)))
    assert mapped(frames, past)[0] == frames
    assert mapped(frames, past, logged(Script(url, CODE, "x.js.map")))[0] == frames
    past.close()
    past.add(logged(Script(url, CODE, "x.js.map")))
    assert mapped(frames, past)[1].frames == 1
    past.close()


def test_roots_of_processes_that_ended_have_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(original, "MAX_PAST_ROOTS", 2)
    past = PastScripts()
    before = count_descriptors()
    for number in range(5):
        (tmp_path / f"{number}.js.map").write_bytes(source_map(encode(NAMED)))
        log = logged(Script(str(tmp_path / f"{number}.js"), CODE, f"{number}.js.map"))
        assert log.root is not None
        log.root.place = (1, number)
        past.add(log)
    assert count_descriptors() == before + 2
    frames = [frame("a", str(tmp_path / f"{number}.js"), (1, 15), (1, 11)) for number in range(5)]
    _, stats = mapped(frames, past)
    assert stats.maps == 2
    assert stats.missing == [
        f"{tmp_path}/{number}.js.map: its process ended long ago" for number in range(3)
    ]
    past.close()


@given(st.text(), st.text(), st.lists(st.tuples(st.integers(0, 70), st.integers(0, 5)), max_size=5))
def test_hostile_scripts_end_well(
    mapping_url: str, text: str, places: list[tuple[int, int]]
) -> None:
    log = logged(Script("/x.js", text, mapping_url), Script("/y.js", CODE + text, "", 8))
    data = "data:," + quote(source_map(encode(NAMED)))
    log.scripts["/z.js", 9] = original.Noted(data, Script("/z.js", text), None)  # type: ignore[arg-type]  # has what is used of it
    frames = [
        frame("a", url, (line, column), script_id=number)
        for url, number in (("/x.js", 7), ("/y.js", 8), ("/z.js", 9))
        for column, line in dict.fromkeys(places)
    ]
    result, _ = mapped(frames, log)
    assert [one.location for one in result] == [one.location for one in frames]
    log.close()
