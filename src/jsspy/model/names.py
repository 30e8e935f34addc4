"""How a frame is named: one place for every format, viewer and table.

Names are cleaned where frames are made; what is written here does not rely on that. `clean` turns
whatever could break a line, a parser or the direction of reading into visible escapes. Characters
that only one format reserves (`;`, `#`, `<`) are that format's to escape.
"""

from __future__ import annotations

import re
from enum import Enum

from jsspy.model.stack import Frame, FrameKind, Location

_CONTROL = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the direction of reading
    "\u2028\u2029"  # end a line in JavaScript
    "\ufeff"  # invisible
    "\ud800-\udfff"  # lone surrogates: not encodable
    "]"
)
_SHORT_ESCAPES = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}

KIND_PREFIXES = {
    FrameKind.BUILTIN: "Builtin:",
    FrameKind.BYTECODE_HANDLER: "BytecodeHandler:",
    FrameKind.REGEXP: "RegExp:",
}
"""V8's own spelling, as in perf maps."""
_NAMELESS = {
    FrameKind.JS: "(anonymous)",
    FrameKind.WASM: "(anonymous)",
    FrameKind.ASYNC_BOUNDARY: "(async)",
}
_SCRIPT_KINDS = frozenset({FrameKind.JS, FrameKind.WASM})
VM_KINDS = frozenset({FrameKind.VM_FRAME})
"""Kinds that say how V8 got from one frame to the next: of no use to who reads a flame graph."""
NO_STACK = Frame("(no stack)", FrameKind.UNKNOWN)
"""Stands for an empty stack, or one of which nothing is shown, where samples must be accounted."""


class Origin(Enum):
    """Whose code a frame runs. Values are the words on the screen."""

    APP = "app"
    DEPENDENCY = "dependency"
    CORE = "core"
    """JavaScript that is part of Node.js."""
    BUILTIN = "builtin"
    """Machine code that is part of V8 and runs as JavaScript."""
    NATIVE = "native"
    KERNEL = "kernel"
    VM = "vm"
    OTHER = "other"


_ORIGINS = {
    FrameKind.BUILTIN: Origin.BUILTIN,
    FrameKind.BYTECODE_HANDLER: Origin.BUILTIN,
    FrameKind.REGEXP: Origin.BUILTIN,
    FrameKind.NATIVE: Origin.NATIVE,
    FrameKind.KERNEL: Origin.KERNEL,
    FrameKind.VM_STATE: Origin.VM,
    FrameKind.VM_FRAME: Origin.VM,
}


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    short = _SHORT_ESCAPES.get(character)
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def clean(text: str) -> str:
    r"""Make control characters, bidi controls and lone surrogates visible: NUL becomes `\x00`."""
    return _CONTROL.sub(_escape, text) if _CONTROL.search(text) else text


def path_of(url: str) -> str:
    """Return the path of a `file:` URL; any other script name as it is."""
    if not url.startswith("file:///"):
        return url
    path = url[7:]
    if "%" not in path:
        return path
    # Seldom needed, and 3 ms to load.
    from urllib.parse import unquote

    return unquote(path)


def place_of(frame: Frame) -> Location | None:
    """Return where a function is written: url, and line and column if they are its own.

    After source mapping that is the original place. Where the map does not cover the function's
    beginning, only the file is known: it was mapped where code executes.
    """
    if frame.original_definition is not None and frame.original_definition.url:
        return frame.original_definition
    if frame.original is not None and frame.original.url:
        return Location(frame.original.url)
    if frame.definition is not None and frame.definition.url:
        return frame.definition
    if frame.location is not None and frame.location.url:
        return Location(frame.location.url)
    return None


def function_of(frame: Frame) -> Frame:
    """Reduce a frame to the function that it runs: the identity of a row in a call tree.

    That is name, kind, url, position of the definition and module; after source mapping the
    original name and file as well. Not the executing line, tier or address, nor whether it was
    inlined: the optimizer's choice changes from one minute to the next, the function does not.
    """
    return Frame(
        name=frame.name,
        kind=frame.kind,
        location=None if frame.definition or not frame.location else Location(frame.location.url),
        definition=frame.definition,
        module=frame.module,
        original=frame.original and Location(frame.original.url),
        original_name=frame.original_name,
        original_definition=frame.original_definition,
        package=frame.package,
    )


def function_name(frame: Frame) -> str:
    """Return the name of the function alone, cleaned: `foo`, `(anonymous)`, `Builtin:ArrayMap`."""
    name = clean(frame.original_name or frame.name)
    if not name.strip():
        return _NAMELESS.get(frame.kind, "(unknown)")
    prefix = KIND_PREFIXES.get(frame.kind, "")
    return name if name.startswith(prefix) else prefix + name


def display_place(frame: Frame) -> str:
    """Return `path:line` of the definition, cleaned; `path` without a line; "" if not known."""
    place = place_of(frame)
    if place is None:
        return ""
    path = clean(path_of(place.url))
    return path if place.line is None else f"{path}:{place.line}"


def display_name(frame: Frame) -> str:
    """Return what a frame is called in one string: `foo /app/a.js:10`."""
    place = display_place(frame)
    return f"{function_name(frame)} {place}" if place else function_name(frame)


def classic_parts(frame: Frame) -> tuple[str, str, str]:
    """Return a frame as node-flame spells it, cut around the path of its file.

    The three parts, put together: `foo:/app/a.js:10`, with `[empty]` for a missing name or file and
    `[unknown]` for a missing line; `write:[native]`; `[entry frame]`. The path is the second part;
    "" for frames that have none.
    """
    name = clean(frame.original_name or frame.name)
    place = place_of(frame) or frame.definition
    match frame.kind:
        case FrameKind.VM_FRAME | FrameKind.VM_STATE:
            return (name if name[:1] in {"[", "("} and len(name) > 1 else f"[{name}]", "", "")
        case FrameKind.NATIVE | FrameKind.KERNEL:
            return f"{name or 'Unknown'}:[{frame.kind.value}]", "", ""
        case FrameKind.BUILTIN | FrameKind.BYTECODE_HANDLER | FrameKind.REGEXP:
            prefix = KIND_PREFIXES[frame.kind]
            return f"[{prefix} {name.removeprefix(prefix)}]", "", ""
        case FrameKind.JS | FrameKind.WASM:
            pass
        case _ if place is None:
            return name or "[unknown]", "", ""
    path = clean(place.url) if place else ""
    line = place.line if place else None
    return f"{name or '[empty]'}:", path or "[empty]", f":{'[unknown]' if line is None else line}"


_PACKAGE = re.compile(r".*/node_modules/((?:@[^/]+/)?[^/@.][^/]*)/", re.DOTALL)
_PNPM = re.compile(r".*/node_modules/\.pnpm/([^/]+)/node_modules/", re.DOTALL)
_YARN = re.compile(r".*/\.yarn/[^/]*/[^/]*?-npm-(\d[^/]*?)-[0-9a-f]+\b", re.DOTALL)
_PACKAGE_VERSION = re.compile(r"(?<=.)@.*", re.DOTALL)
_OLD_CORE = re.compile(r"(?:internal/[\w./-]+|_?\w+)\.js|node\.js")


def origin_of(frame: Frame) -> Origin:
    """Say whose code a frame runs."""
    if frame.kind not in _SCRIPT_KINDS:
        return _ORIGINS.get(frame.kind, Origin.OTHER)
    place = place_of(frame)
    url = place.url if place else ""
    # Node.js before 16 names its own scripts `fs.js`, `internal/timers.js`: a relative name, where
    # those of modules are absolute.
    if url.startswith("node:") or _OLD_CORE.fullmatch(url):
        return Origin.CORE
    return Origin.DEPENDENCY if "/node_modules/" in url else Origin.APP


def package_of(frame: Frame) -> str:
    """Return the package that a frame belongs to.

    `name@version` or `name` for what lies in node_modules (where package.json was not read, a path
    tells the version with pnpm and Yarn only), `node:` for Node.js' own JavaScript, and otherwise
    the frame's `Origin` in round brackets: `(app)`.
    """
    origin = origin_of(frame)
    if origin is Origin.CORE:
        return "node:"
    directory = package_directory(frame)
    if not directory:
        return f"({Origin.APP.value if origin is Origin.DEPENDENCY else origin.value})"
    if frame.package:
        return clean(frame.package)
    name = directory.rpartition("/node_modules/")[2]
    return clean(name + _version(f"{directory}/", name))


def package_directory(frame: Frame) -> str:
    """Return the directory of the package in node_modules that a frame lies in; "" if in none."""
    if origin_of(frame) is not Origin.DEPENDENCY:
        return ""
    place = place_of(frame)
    match = _PACKAGE.match(path_of(place.url)) if place else None
    return match[0][:-1] if match else ""


def without_version(package: str) -> str:
    """Return the name of a package alone, from what `package_of` said."""
    return _PACKAGE_VERSION.sub("", package)


def _version(path: str, name: str) -> str:
    """Return `@1.2.3` if the directories of pnpm or Yarn say so, else ""."""
    if match := _PNPM.match(path):
        # @scope+name@1.2.3_peer@4.5.6 or @scope+name@1.2.3(peer@4.5.6). What a package depends on
        # lies beside it under the same directory, so the names must agree.
        prefix = name.replace("/", "+") + "@"
        if not match[1].startswith(prefix):
            return ""
        return "@" + re.split(r"[_(]", match[1][len(prefix) :], maxsplit=1)[0]
    if match := _YARN.match(path):
        return f"@{match[1]}"
    return ""


def file_of(frame: Frame) -> str:
    """Return the file that a frame's code is in, cleaned: script, module, or `(builtin)`."""
    place = place_of(frame)
    if place is not None:
        return clean(path_of(place.url))
    if frame.module is not None:
        return clean(frame.module.path)
    return f"({origin_of(frame).value})"
