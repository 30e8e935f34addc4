"""With no option the only process there is; where there is a choice, the user's."""

from __future__ import annotations

import pytest

from jsspy.cli.targets import choose_only_one, shorten
from jsspy.errors import ProcessNotFound, TargetError
from jsspy.target.search import NodeProcess


def process(pid: int, uid: int = 1000) -> NodeProcess:
    return NodeProcess(pid, uid, f"node server{pid}.js", f"/proc/{pid}/exe", None)


def test_only_process_of_the_user_is_taken() -> None:
    everyone = [process(7, uid=0), process(8), process(9, uid=33)]
    assert choose_only_one(everyone, 1000, "record").pid == 8


def test_several_are_listed_with_the_command_to_type() -> None:
    with pytest.raises(TargetError) as caught:
        choose_only_one([process(7, uid=0), process(8), process(9)], 1000, "dump")
    assert caught.value.message.splitlines() == [
        "2 node processes are yours; say which one:",
        "        8  node server8.js",
        "        9  node server9.js",
    ]
    assert caught.value.hint == "jsspy dump --pid 8"
    assert caught.value.exit_code == 3


def test_another_users_process_is_not_taken_unasked() -> None:
    with pytest.raises(TargetError) as caught:
        choose_only_one([process(7, uid=33)], 0, "record")
    assert "node server7.js" in caught.value.message
    assert caught.value.hint == "jsspy record --pid 7"


def test_none_at_all() -> None:
    with pytest.raises(ProcessNotFound, match="no node process is running"):
        choose_only_one([], 0, "record")


def test_long_lists_are_cut() -> None:
    with pytest.raises(TargetError, match="and 15 more"):
        choose_only_one([process(pid) for pid in range(2, 27)], 1000, "record")


def test_long_commands_are_cut() -> None:
    assert shorten("node") == "node"
    assert len(shorten("x" * 500)) == 60
