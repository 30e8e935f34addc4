"""The symbol tables of real node binaries. No process is started."""

from __future__ import annotations

import re

import pytest

import nodes
from jsspy.model.capture import Registers
from jsspy.symbolize.demangle import short_name
from jsspy.target.elf import STT_FUNC, ElfFile
from jsspy.unwind.cfi import RIP, RSP, CfiTable, Step, start_registers

BUILTINS = {"12": 1553, "14": 1567, "16": 1726, "18": 2054}
BUILTINS |= {"20": 2182, "22": 2304, "24": 2384, "26": 2415}
"""Major version -> number of builtins, as counted by readelf."""


@pytest.mark.parametrize("version", nodes.MODERN)
def test_every_builtin_is_a_function_with_an_extent(version: str) -> None:
    elf = ElfFile.load(nodes.find(version))
    symbols = elf.find_symbols(re.compile(rb"Builtins_\w+"))
    assert len(symbols) == BUILTINS[version.partition(".")[0]]
    functions = elf.functions()
    for name, symbol in symbols.items():
        found = functions.find(symbol.address)
        assert found is not None
        assert (found.name, found.address, found.type) == (name, symbol.address, STT_FUNC)
        assert found.size > 0
        assert symbol.size in {0, found.size}


@pytest.mark.parametrize("version", nodes.MODERN)
def test_metadata_of_value_0_reads_as_zeros(version: str) -> None:
    elf = ElfFile.load(nodes.find(version))
    symbols = elf.find_symbols(re.compile(rb"v8dbg_(SmiTag|SmiTagMask|HeapObjectTag)"))
    values = {
        name: int.from_bytes(elf.read(symbol.address, 4), "little")
        for name, symbol in symbols.items()
    }
    assert values == {"v8dbg_SmiTag": 0, "v8dbg_SmiTagMask": 1, "v8dbg_HeapObjectTag": 1}


@pytest.mark.parametrize("version", nodes.MODERN)
def test_native_functions_have_names_and_unwind_rules(version: str) -> None:
    elf = ElfFile.load(nodes.find(version))
    address = elf.find_symbols(re.compile(rb"_ZN4node5StartEiPPc"))["_ZN4node5StartEiPPc"].address
    function = elf.functions().find(address)
    assert function is not None
    assert short_name(function.name) == "node::Start"
    # On entry the return address is at rsp, whatever the function does later.
    registers = start_registers(Registers(rip=address, rsp=0x1000))
    stack = (0x1234).to_bytes(8, "little")
    assert CfiTable(elf).step(address, registers, stack, 0x1000) is Step.CALLER
    assert (registers[RIP], registers[RSP]) == (0x1234, 0x1008)
