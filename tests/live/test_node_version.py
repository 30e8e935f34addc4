"""Every binary says which Node.js it is, without being run."""

from __future__ import annotations

import pytest

import nodes
from jsspy.target.elf import ElfFile
from jsspy.target.node import find_node_version


@pytest.mark.parametrize("version", nodes.selected(nodes.VERSIONS))
def test_version_is_found_and_remembered(version: str) -> None:
    elf = ElfFile.load(nodes.find(version))
    try:
        assert find_node_version(elf) == version
        assert find_node_version(elf) == version
    finally:
        elf.close()


def test_other_programs_have_none() -> None:
    elf = ElfFile.load("/proc/self/exe")
    try:
        assert find_node_version(elf) is None
    finally:
        elf.close()
