"""What the embedded builtins are called in a stack, and which of them are glue.

A builtin that is a JavaScript function (`Array.prototype.map`) has a frame of its own and is named
by its SharedFunctionInfo, in `jsspy.symbolize.js`. Here are those that stand at the leaf without
one: bytecode handlers, inline caches, string and allocation primitives.
"""

from __future__ import annotations

import re

from jsspy.model.stack import Frame, FrameKind
from jsspy.v8.builtins import Builtin

_GLUE = re.compile(
    r"JS(Construct|RunMicrotasks)?Entry(Trampoline)?|JSConstructEntry.*|CEntry_.*|DirectCEntry"
    r"|Interpreter(?!.*Handler$).*|Baseline(Or|On|Out|Leave).*|ArgumentsAdaptorTrampoline"
    r"|(Call|Construct)(_|Function|BoundFunction|Proxy|WithSpread|WithArrayLike|Varargs"
    r"|ForwardVarargs|FunctionForwardVarargs)?.*|JSBuiltinsConstructStub|JSConstructStub.*"
    r"|FastConstructStub|RunMicrotasks.*|Compile(Lazy|Baseline).*|HandleApiCall.*|CallApiCallback.*"
    r"|Deoptimization.*|DeoptimizationEntry_.*|InstantiateAsmJs|NotifyDeoptimized|Adaptor.*"
)
"""Code that brings V8 from one frame to the next: of no use to who reads a flame graph."""

_UNNAMED = Frame("(builtin)", FrameKind.BUILTIN)


def builtin_frame(builtin: Builtin | None) -> Frame:
    """Return the frame of code at the leaf that belongs to `builtin`; None: it has no symbol."""
    if builtin is None:
        return _UNNAMED
    if builtin.is_handler:
        return Frame(builtin.name, FrameKind.BYTECODE_HANDLER)
    if _GLUE.fullmatch(builtin.name):
        return Frame(f"[{builtin.name}]", FrameKind.VM_FRAME)
    return Frame(builtin.name, FrameKind.BUILTIN)


def is_own_frame(label: Frame, function_name: str) -> bool:
    """Whether the builtin of `label` is the JavaScript function `function_name` itself.

    The symbol of `Array.prototype.map` is ArrayMap, that of `Generator.prototype.next` is
    GeneratorPrototypeNext: the function's own frame says the same in the words of the program.
    """
    name = re.sub(r"[^a-z0-9]", "", function_name.lower())
    return bool(name) and label.kind is FrameKind.BUILTIN and label.name.lower().endswith(name)
