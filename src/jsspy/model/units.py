"""Integers that must not be mixed up.

Calling a NewType costs about 50 ns: wrap at the edge of a module, annotate inside loops.
"""

from __future__ import annotations

from typing import NewType

Address = NewType("Address", int)
"""A virtual address in the running target."""

FileAddress = NewType("FileAddress", int)
"""An address as linked in an ELF file (a symbol's value)."""

TaggedPtr = NewType("TaggedPtr", int)
"""A V8 word with its tag still on: a Smi, or a heap object's address plus 1."""

Pid = NewType("Pid", int)
"""A process id as seen from jsspy's own pid namespace."""

Tid = NewType("Tid", int)
"""A thread id as seen from jsspy's own pid namespace."""
