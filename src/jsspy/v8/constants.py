"""What a binary says about the V8 in it, and an account of what it does not say.

V8 is built with post-mortem metadata: global 4-byte constants, put into the binary by
tools/gen-postmortem-metadata.py, that give offsets, instance types and frame types. Names carry a
C++ type that changes between versions (`class_SharedFunctionInfo__script__Tagged_HeapObject_`), so
a field is looked up by class and field alone. A constant that is 0 lies in .bss.
"""

from __future__ import annotations

import re

from jsspy.errors import FaultError, MalformedData, UnknownV8
from jsspy.target.elf import ElfFile, Symbol
from jsspy.v8.layouts import Version, find_value, load_rules
from jsspy.v8.stripped import builtin_symbols

_VERSION = "_ZN2v88internal7Version6{}_E"

_SYMBOLS = re.compile(
    rb"v8dbg_\w+|_ZN2v88internal7Version6(?:major|minor|build|patch)_E"
    rb"|_ZN2v88internal18g_current_isolate_E|_ZN2v88internal7Isolate12isolate_key_E"
    rb"|_ZN2v88internal11interpreter9Bytecodes14kBytecodeSizesE"
    rb"|_ZZN2v88internal29TranslationOpcodeOperandCountE\w+6counts"
    rb"|v8_Default_embedded_blob_\w*"
    rb"|_ZN2v88internal7Isolate(?:19get_address_from_idE|4InitE)\w+"
)


class Constants:
    """The constants of a binary, with an account of what they lacked."""

    def __init__(self, elf: ElfFile) -> None:
        self.elf = elf
        self.symbols = elf.find_symbols(_SYMBOLS)
        self.builtins = builtin_symbols(elf)
        """Symbol, `Builtins_…` -> what it is, also where it was stripped."""
        self.constants: dict[str, int] = {}
        """Name without `v8dbg_` -> value."""
        self.fields: dict[str, int] = {}
        """`Class.field` -> offset."""
        self.types: dict[str, int] = {}
        """Class -> its first instance type."""
        self.missing: list[str] = []
        self.derived: list[str] = []
        for name, symbol in self.symbols.items():
            if name.startswith("v8dbg_"):
                self._add(name[6:], self._read_int(symbol))
        self.version = self._read_version()
        self._rules = load_rules()

    def _add(self, name: str, value: int) -> None:
        self.constants[name] = value
        parts = name.split("__")
        if name.startswith("class_") and len(parts) > 1:
            field = f"{parts[0][6:]}.{parts[1]}"
            self.fields[field] = value
            # V8 7.9 names some fields so.
            self.fields.setdefault(field.removesuffix("_offset"), value)
        elif name.startswith("type_"):
            class_name = parts[0][5:]
            self.types[class_name] = min(value, self.types.get(class_name, value))

    def _read_int(self, symbol: Symbol) -> int:
        try:
            return int.from_bytes(self.elf.read(symbol.address, 4), "little", signed=True)
        except FaultError as error:
            raise MalformedData(self.elf.name, f"{symbol.name} lies outside of it") from error

    def _read_version(self) -> Version:
        numbers = []
        for part in ("major", "minor", "build", "patch"):
            symbol = self.symbols.get(_VERSION.format(part))
            if symbol is None:
                raise UnknownV8("?", (_VERSION.format(part),))
            numbers.append(self._read_int(symbol))
        major, minor, build, patch = numbers
        return (major, minor, build, patch)

    def rule(self, field: str) -> int | str | None:
        """Return what the rules say of a field, and note that it was derived."""
        value = find_value(self._rules, field, self.version)
        if value is not None:
            self.derived.append(field)
        return value

    def optional(self, field: str, value: int | None) -> int | None:
        """Return a value of the metadata, or failing that, of the rules."""
        if value is not None:
            return value
        ruled = self.rule(field)
        return ruled if isinstance(ruled, int) else None

    def need(self, field: str, value: int | None = None) -> int:
        """Return what `optional` does, and note a field that is in neither as missing."""
        found = self.optional(field, value)
        if found is None:
            self.missing.append(field)
            return 0
        return found
