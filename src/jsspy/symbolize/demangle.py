"""C++ names: from `_ZN2v88internal4Heap14CollectGarbageE...` to what its author wrote.

The mangled name is parsed into a tree (`_Parser`), which is then printed (`_Printer`), because C++
types are written inside out: in `void (*)(int)` what came last stands in the middle. So every node
prints as two strings, what goes before a declared name and what goes after it. Parts that occurred
before are written as references (`S1_`, `T0_`), so the tree is a graph, and a short name can stand
for an enormous text: both phases count their steps, depth and output, and give up beyond a cap.
What is not understood is returned as it came.

The text is that of GNU c++filt, with which the symbols of Node are compared in the tests of this
project: "> >", "{lambda(int)#1}", "[clone .cold]".

Source: Itanium C++ ABI, chapter 5.1 "External Names (a.k.a. Mangling)".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

MAX_MANGLED = 16 << 10
"""Characters; the longest name in Node 26 has 975."""

MAX_OUTPUT = 64 << 10
"""Characters; those 975 stand for 43,000."""

MAX_SHORT = 1000
"""Characters of a short name, which is cut there."""

MAX_SHORT_ARGUMENTS = 160
"""Characters of one list of template arguments in a short name: longer ones are `<...>`. Without
this one function in twelve of Node 26 has a name of more than 1000 characters."""

MAX_STEPS = 1 << 16
"""Nodes parsed, and nodes printed; the most that Node 26 needs is 305."""

MAX_DEPTH = 160
"""Nested parts; each takes up to two frames of Python's stack, of which there are 1000."""

_BUILTIN_TYPES = {
    "v": "void",
    "w": "wchar_t",
    "b": "bool",
    "c": "char",
    "a": "signed char",
    "h": "unsigned char",
    "s": "short",
    "t": "unsigned short",
    "i": "int",
    "j": "unsigned int",
    "l": "long",
    "m": "unsigned long",
    "x": "long long",
    "y": "unsigned long long",
    "n": "__int128",
    "o": "unsigned __int128",
    "f": "float",
    "d": "double",
    "e": "long double",
    "g": "__float128",
    "z": "...",
}
_BUILTIN_D_TYPES = {
    "d": "decimal64",
    "e": "decimal128",
    "f": "decimal32",
    "h": "half",
    "i": "char32_t",
    "s": "char16_t",
    "u": "char8_t",
    "a": "auto",
    "c": "decltype(auto)",
    "n": "decltype(nullptr)",
}
_LITERAL_SUFFIXES = {
    "int": "",
    "unsigned int": "u",
    "long": "l",
    "unsigned long": "ul",
    "long long": "ll",
    "unsigned long long": "ull",
}
_STANDARD = {
    "a": "std::allocator",
    "b": "std::basic_string",
    "s": "std::string",
    "i": "std::istream",
    "o": "std::ostream",
    "d": "std::iostream",
}
_STANDARD_FULL = {
    "s": "std::basic_string<char, std::char_traits<char>, std::allocator<char> >",
    "i": "std::basic_istream<char, std::char_traits<char> >",
    "o": "std::basic_ostream<char, std::char_traits<char> >",
    "d": "std::basic_iostream<char, std::char_traits<char> >",
}
"""How the abbreviations read where a constructor or destructor follows."""

_OPERATORS = {
    "aN": ("&=", 2),
    "aS": ("=", 2),
    "aa": ("&&", 2),
    "ad": ("&", 1),
    "an": ("&", 2),
    "at": ("alignof ", 1),
    "aw": ("co_await ", 1),
    "az": ("alignof ", 1),
    "cl": ("()", 0),
    "cm": (",", 2),
    "co": ("~", 1),
    "dV": ("/=", 2),
    "da": ("delete[] ", 1),
    "de": ("*", 1),
    "dl": ("delete ", 1),
    "ds": (".*", 2),
    "dv": ("/", 2),
    "eO": ("^=", 2),
    "eo": ("^", 2),
    "eq": ("==", 2),
    "ge": (">=", 2),
    "gt": (">", 2),
    "ix": ("[]", 2),
    "lS": ("<<=", 2),
    "le": ("<=", 2),
    "ls": ("<<", 2),
    "lt": ("<", 2),
    "mI": ("-=", 2),
    "mL": ("*=", 2),
    "mi": ("-", 2),
    "ml": ("*", 2),
    "mm": ("--", 1),
    "na": ("new[]", 0),
    "ne": ("!=", 2),
    "ng": ("-", 1),
    "nt": ("!", 1),
    "nw": ("new", 0),
    "oR": ("|=", 2),
    "oo": ("||", 2),
    "or": ("|", 2),
    "pL": ("+=", 2),
    "pl": ("+", 2),
    "pm": ("->*", 2),
    "pp": ("++", 1),
    "ps": ("+", 1),
    "pt": ("->", 2),
    "qu": ("?", 3),
    "rM": ("%=", 2),
    "rS": (">>=", 2),
    "rm": ("%", 2),
    "rs": (">>", 2),
    "ss": ("<=>", 2),
    "sz": ("sizeof ", 1),
}
"""Code: (spelling, operands in an expression)."""

_CASTS = {"cc": "const_cast", "dc": "dynamic_cast", "rc": "reinterpret_cast", "sc": "static_cast"}
_QUALIFIERS = {"r": " restrict", "V": " volatile", "K": " const"}
_SPECIAL = {
    "TV": "vtable for ",
    "TT": "VTT for ",
    "TI": "typeinfo for ",
    "TS": "typeinfo name for ",
    "GV": "guard variable for ",
    "TW": "TLS wrapper function for ",
    "TH": "TLS init function for ",
}
_CLONE = re.compile(r"\.[A-Za-z_][A-Za-z0-9_]*(?:\.[0-9]+)*|(?:\.[0-9]+)+")


_RUST_END = re.compile(r"17h[0-9a-f]{16}E(?:\.llvm\.[0-9A-F]+)?$")
_LENGTH = re.compile(r"[0-9]{1,4}")
_RUST_ESCAPE = re.compile(r"\$(?:(SP|BP|RF|LT|GT|LP|RP|C)|u([0-9a-f]{1,6}))\$|\.\.")
_RUST_CHARACTERS = {
    "SP": "@",
    "BP": "*",
    "RF": "&",
    "LT": "<",
    "GT": ">",
    "LP": "(",
    "RP": ")",
    "C": ",",
}


class _Unknown(Exception):
    """A name that is not understood, or is beyond a cap; stays in this module."""


class _Node:
    """A part of a name: its kind, parts and text mean what `_Printer` makes of them."""

    __slots__ = ("kind", "parts", "text")

    def __init__(self, kind: str, text: str = "", *parts: _Node) -> None:
        self.kind = kind
        self.text = text
        self.parts = parts


_NOTHING = _Node("name")


def demangle(mangled: str) -> str:
    """Return a C++ name with its types, as c++filt does; any other name as it is."""
    return _demangle(mangled, signature=True)


@lru_cache(maxsize=1024)
def short_name(mangled: str) -> str:
    """Return a C++ name without return type and parameters: what a frame is called.

    `v8::internal::Heap::CollectGarbage`. Template arguments stay, except where they are endless.
    Marks of partial copies of a function (`.cold`, `.constprop.0`) are left out, from C names too.
    """
    name = _demangle(mangled, signature=False)
    return name if len(name) <= MAX_SHORT else name[: MAX_SHORT - 3] + "..."


def _demangle(mangled: str, *, signature: bool) -> str:
    if mangled.startswith(("_Z", "___Z", "__Z")) and len(mangled) <= MAX_MANGLED:
        if _RUST_END.search(mangled) and (rust := _demangle_rust(mangled)):
            return rust
        try:
            tree = _Parser(mangled, mangled.index("Z") + 1).parse()
            return _Printer(signature=signature).print(tree)
        except (_Unknown, IndexError, RecursionError):
            return mangled
    return mangled if signature else _C_CLONE.sub("", mangled) or mangled


def _demangle_rust(mangled: str) -> str | None:
    """Return the path that a Rust name stands for, if it is one, without its hash.

    Rust's first scheme writes a path as C++ does a nested name, and what cannot stand in one as
    `$LT$`; the last part is a hash. Node 26 contains Rust (Temporal).
    Source: rustc-demangle 0.1, src/legacy.rs.
    """
    parts: list[str] = []
    at = mangled.find("N") + 1
    if not at:
        return None
    while length := _LENGTH.match(mangled, at):
        at = length.end() + int(length[0])
        parts.append(mangled[length.end() : at])
    if mangled[at : at + 1] != "E" or mangled[at + 1 : at + 7] not in {"", ".llvm."}:
        return None
    paths = (part[1:] if part.startswith("_$") else part for part in parts[:-1])
    return "::".join(_RUST_ESCAPE.sub(_unescape_rust, path) for path in paths)


def _unescape_rust(match: re.Match[str]) -> str:
    if match[1]:
        return _RUST_CHARACTERS[match[1]]
    if match[2]:
        code = int(match[2], 16)
        return chr(code) if code < 0x110000 and chr(code).isprintable() else match[0]
    return "::"


_C_CLONE = re.compile(r"(?<=.)(?:\.(?:cold|constprop|part|isra|lto_priv)(?:\.\d+)*)+$")


class _Parser:
    """Recursive descent over one mangled name. Method names follow the ABI's grammar.

    Raises:
        _Unknown: From every method, where the name does not follow the grammar.
    """

    def __init__(self, text: str, at: int) -> None:
        self._text = text + "\0\0"  # two characters can always be looked at
        self._at = at
        self._depth = 0
        self._steps = 0
        self._substitutions: list[_Node] = []
        self._template_args: tuple[_Node, ...] | None = None
        """Arguments of the template that T_ refers to; None before they were met."""
        self._contexts: list[object] = []
        """For each substitution what T_ referred to when it was parsed."""
        self._forward: list[_Node] = []
        self._closure_params: list[str] | None = None
        """Names of the declared template parameters, inside of a lambda's signature."""
        self._has_template_args = False
        """The name just parsed ends in template arguments."""
        self._is_typeless = False
        """The name just parsed is a constructor, destructor or conversion: no return type."""
        self._method_qualifiers = ""

    def parse(self) -> _Node:
        """Parse the whole name."""
        node = self._encoding()
        suffix = self._text[self._at : -2]
        clones = _CLONE.findall(suffix)
        if "".join(clones) != suffix:
            raise _Unknown
        for clone in clones:
            node = _Node("clone", f" [clone {clone}]", node)
        return node

    # -- characters

    def _peek(self, length: int = 1) -> str:
        return self._text[self._at : self._at + length]

    def _accept(self, text: str) -> bool:
        if self._text.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise _Unknown

    def _take(self, length: int) -> str:
        text = self._text[self._at : self._at + length]
        self._at += length
        if self._at > len(self._text) - 2:
            raise _Unknown
        return text

    def _digits(self) -> str:
        start = self._at
        while "0" <= self._text[self._at] <= "9":
            self._at += 1
        return self._text[start : self._at]

    def _number(self) -> int:
        digits = self._digits()
        if not digits or len(digits) > 9:
            raise _Unknown
        return int(digits)

    def _signed_number(self) -> str:
        sign = "-" if self._accept("n") else ""
        digits = self._digits()
        if not digits:
            raise _Unknown
        return sign + digits

    def _sequence(self, alphabet: str) -> int:
        """Take `_` as 0, `0_` as 1, and so on, in the base of the alphabet."""
        if self._accept("_"):
            return 0
        value = 0
        for _ in range(7):
            digit = alphabet.find(self._text[self._at])
            if digit < 0:
                break
            self._at += 1
            value = value * len(alphabet) + digit
        self._expect("_")
        return value + 1

    def _enter(self) -> None:
        self._depth += 1
        self._steps += 1
        if self._depth > MAX_DEPTH or self._steps > MAX_STEPS:
            raise _Unknown

    def _remember(self, node: _Node) -> _Node:
        self._substitutions.append(node)
        self._contexts.append(self._context)
        return node

    @property
    def _context(self) -> object:
        """What gives T_ its meaning here, to be compared by identity."""
        return self._template_args if self._closure_params is None else self._closure_params

    # -- encodings and names

    def _encoding(self) -> _Node:
        self._enter()
        saved = self._template_args, self._forward
        self._template_args, self._forward = None, []
        node = self._encoding_body()
        self._template_args, self._forward = saved
        self._depth -= 1
        return node

    def _encoding_body(self) -> _Node:
        if self._peek() in {"T", "G"}:
            return self._special_name()
        name = self._name()
        has_return = self._has_template_args and not self._is_typeless
        qualifiers = self._method_qualifiers
        for node in self._forward:
            node.parts = (self._resolve_template_param(int(node.text)),)
        if self._peek() in {"\0", "E", "."}:
            return name
        returned = self._type() if has_return else _NOTHING
        parameters = self._parameters("E.\0")
        return _Node("encoding", qualifiers, name, returned, parameters)

    def _parameters(self, ends: str) -> _Node:
        """Take parameter types up to one of the characters in `ends`, which stays."""
        types: list[_Node] = []
        while self._peek() not in ends:
            types.append(self._type())
        if len(types) == 1 and types[0].kind == "name" and types[0].text == "void":
            types = []
        return _Node("list", "", *types)

    def _special_name(self) -> _Node:
        code = self._take(2)
        if code in {"TV", "TT", "TI", "TS"}:
            return _Node("special", _SPECIAL[code], self._type())
        if code in {"GV", "TW", "TH"}:
            return _Node("special", _SPECIAL[code], self._name())
        if code in {"Th", "Tv"}:
            self._at -= 1
            kind = "non-virtual" if code == "Th" else "virtual"
            self._call_offset()
            return _Node("special", f"{kind} thunk to ", self._encoding())
        if code == "Tc":
            self._call_offset()
            self._call_offset()
            return _Node("special", "covariant return thunk to ", self._encoding())
        if code == "TC":
            derived = self._type()
            self._signed_number()
            self._expect("_")
            return _Node("construction", "", self._type(), derived)
        if code == "GR":
            name = self._name()
            number = self._sequence("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
            return _Node("special", f"reference temporary #{number} for ", name)
        if code == "GT":
            kind = "transaction" if self._take(1) == "t" else "non-transaction"
            return _Node("special", f"{kind} clone for ", self._encoding())
        if code == "TA":
            return _Node("special", "template parameter object for ", self._template_arg())
        raise _Unknown

    def _call_offset(self) -> None:
        kind = self._take(1)
        if kind not in {"h", "v"}:
            raise _Unknown
        self._signed_number()
        self._expect("_")
        if kind == "v":
            self._signed_number()
            self._expect("_")

    def _name(self) -> _Node:
        self._enter()
        self._has_template_args = self._is_typeless = False
        self._method_qualifiers = ""
        first = self._peek()
        if first == "N":
            node = self._nested_name()
        elif first == "Z":
            node = self._local_name()
        else:
            node = self._unscoped_name()
        self._depth -= 1
        return node

    def _unscoped_name(self) -> _Node:
        if self._peek() == "S" and self._peek(2) != "St":
            node = self._substitution()
            if self._peek() != "I":
                raise _Unknown
        else:
            scope = None
            if self._accept("St"):
                scope = _Node("name", "std")
            node = self._unqualified_name(None)
            if scope is not None:
                node = _Node("nested", "", scope, node)
            if self._peek() != "I":
                return node
            self._remember(node)
        typeless = self._is_typeless
        arguments = self._template_args_of_name()
        self._has_template_args = True
        self._is_typeless = typeless
        return _Node("template", "", node, arguments)

    def _nested_name(self) -> _Node:
        self._expect("N")
        qualifiers = ""
        while self._peek() in _QUALIFIERS:
            qualifiers = _QUALIFIERS[self._take(1)] + qualifiers
        if self._accept("R"):
            qualifiers += " &"
        elif self._accept("O"):
            qualifiers += " &&"
        node: _Node | None = None
        typeless = has_arguments = False
        while not self._accept("E"):
            first = self._peek()
            if first == "S" and node is None:
                if self._accept("St"):
                    node = _Node("name", "std")
                    continue
                node = self._substitution()
                continue
            if first == "M" and node is not None:
                self._at += 1  # a member's initializer: the closure inside names the rest
                continue
            if first == "I" and node is not None:
                node = _Node("template", "", node, self._template_args_of_name())
                has_arguments = True
            elif first == "T" and node is None:
                node, has_arguments = self._template_param(), False
            elif first == "D" and self._peek(2) in {"Dt", "DT"} and node is None:
                node, has_arguments = self._decltype(), False
            else:
                part = self._unqualified_name(node)
                typeless = self._is_typeless
                node = part if node is None else _Node("nested", "", node, part)
                has_arguments = False
            self._remember(node)
        if node is None or not self._substitutions:
            raise _Unknown
        self._contexts.pop()
        self._substitutions.pop()  # the whole name is remembered by whoever uses it as a type
        self._has_template_args, self._is_typeless = has_arguments, typeless
        self._method_qualifiers = qualifiers
        return node

    def _local_name(self) -> _Node:
        self._expect("Z")
        encoding = self._encoding()
        self._expect("E")
        self._has_template_args = self._is_typeless = False
        self._method_qualifiers = ""
        if self._accept("s"):
            self._discriminator()
            return _Node("local", "", encoding, _Node("name", "string literal"))
        prefix = ""
        if self._accept("d"):
            number = int(self._digits() or -1) + 2
            self._expect("_")
            prefix = f"{{default arg#{number}}}::"
        entity = self._name()
        flags = self._has_template_args, self._is_typeless, self._method_qualifiers
        self._discriminator()
        self._has_template_args, self._is_typeless, self._method_qualifiers = flags
        return _Node("local", prefix, encoding, entity)

    def _discriminator(self) -> None:
        """Skip what tells apart entities of one name in one function."""
        if self._peek() == "_" and self._text[self._at + 1].isdigit():
            self._at += 2
        elif self._accept("__"):
            self._digits()
            self._expect("_")

    def _unqualified_name(self, scope: _Node | None) -> _Node:
        self._enter()
        self._is_typeless = False
        self._accept("L")  # internal linkage
        first = self._peek()
        two = self._peek(2)
        if first.isdigit():
            node = self._source_name()
        elif two in {"C1", "C2", "C3", "C4", "C5", "CI"}:
            self._at += 2
            if two == "CI":
                self._at += 1
                self._type()
            node = _Node("constructor", "", self._need(scope))
            self._is_typeless = True
        elif two in {"D0", "D1", "D2", "D4", "D5"}:
            self._at += 2
            node = _Node("constructor", "~", self._need(scope))
            self._is_typeless = True
        elif two == "DC":
            self._at += 2
            names = []
            while not self._accept("E"):
                names.append(self._source_name())
            node = _Node("binding", "", *names)
        elif two == "Ul":
            node = self._closure()
        elif two == "Ut":
            self._at += 2
            number = self._sequence("0123456789") + 1
            node = self._remember_unnamed(_Node("name", f"{{unnamed type#{number}}}"), scope)
        else:
            node = self._operator_name()
        while self._accept("B"):
            node = _Node("tagged", f"[abi:{self._source_name().text}]", node)
        self._depth -= 1
        return node

    def _remember_unnamed(self, node: _Node, scope: _Node | None) -> _Node:
        if scope is None:
            self._remember(node)
        return node

    @staticmethod
    def _need(scope: _Node | None) -> _Node:
        if scope is None:
            raise _Unknown
        return scope

    def _source_name(self) -> _Node:
        length = self._number()
        if not length:
            raise _Unknown
        text = self._take(length)
        if text.startswith("_GLOBAL_") and text[8:10] in {"_N", ".N", "$N"}:
            text = "(anonymous namespace)"
        return _Node("name", text)

    def _closure(self) -> _Node:
        self._expect("Ul")
        saved, self._closure_params = self._closure_params, []
        head: list[_Node] = []
        while self._peek(2) in {"Ty", "Tn", "Tt", "Tp"}:
            head.append(self._template_param_declaration(""))
        parameters = self._parameters("E")
        self._closure_params = saved
        self._expect("E")
        number = self._sequence("0123456789") + 1
        return _Node("closure", str(number), parameters, _Node("list", "", *head))

    def _template_param_declaration(self, dots: str) -> _Node:
        """Take a template parameter that a lambda declares in angle brackets."""
        kind = self._take(2)
        if kind == "Tp":
            return self._template_param_declaration("...")
        names = self._need_closure()
        letter = {"Ty": "T", "Tn": "N", "Tt": "TT"}.get(kind, "")
        name = f"${letter}{sum(n.startswith(f'${letter}') and n[-1:].isdigit() for n in names)}"
        if kind == "Ty":
            names.append(name)
            return _Node("name", f"typename{dots} {name}")
        if kind == "Tn":
            type_ = self._type()
            names.append(name)
            return _Node("suffixed", f"{dots} {name}", type_)
        raise _Unknown

    def _need_closure(self) -> list[str]:
        if self._closure_params is None:
            raise _Unknown
        return self._closure_params

    def _operator_name(self) -> _Node:
        code = self._take(2)
        if code == "cv":
            # The template arguments that its type refers to follow after it.
            saved = self._template_args
            self._template_args = None
            target = self._type()
            self._template_args = saved
            self._is_typeless = True
            return _Node("conversion", "", target)
        if code == "li":
            return _Node("name", f'operator"" {self._source_name().text}')
        if code[0] == "v" and code[1].isdigit():
            return _Node("name", f"operator {self._source_name().text}")
        if code not in _OPERATORS or code in {"sz", "at", "az", "qu"}:
            raise _Unknown
        text = _OPERATORS[code][0].rstrip()
        return _Node("name", f"operator {text}" if text[0].isalpha() else f"operator{text}")

    # -- references

    def _substitution(self) -> _Node:
        self._expect("S")
        first = self._peek()
        if first == "t":
            self._at += 1
            return _Node("name", "std")
        if first in _STANDARD:
            self._at += 1
            following = self._peek(2)
            text = _STANDARD[first]
            if first in _STANDARD_FULL and following[:1] in {"C", "D"} and following[1].isdigit():
                text = _STANDARD_FULL[first]
            node = _Node("name", text)
            while self._accept("B"):
                node = self._remember(_Node("tagged", f"[abi:{self._source_name().text}]", node))
            return node
        index = self._sequence("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        if index >= len(self._substitutions):
            raise _Unknown
        node = self._substitutions[index]
        if self._contexts[index] is self._context:
            return node
        # `T_` inside of a local function and `T_` outside are the same substitution, but not the
        # same type: what refers to template arguments is taken anew.
        return self._rebind(node, {})

    def _rebind(self, node: _Node, done: dict[int, _Node]) -> _Node:
        """Copy what of a tree refers to template arguments, with those that are current."""
        known = done.get(id(node))
        if known is not None:
            return known
        self._enter()
        if node.kind in {"param", "forward", "auto"}:
            result = self._template_param_node(int(node.text))
        elif node.kind in {"encoding", "closure"}:
            result = node  # what is inside refers to arguments of its own
        else:
            parts = tuple(self._rebind(part, done) for part in node.parts)
            same = all(a is b for a, b in zip(parts, node.parts, strict=True))
            result = node if same else _Node(node.kind, node.text, *parts)
        self._depth -= 1
        done[id(node)] = result
        return result

    def _template_param(self) -> _Node:
        self._expect("T")
        if self._accept("L"):
            self._digits()
            self._expect("_")
        index = self._sequence("0123456789")
        return self._template_param_node(index)

    def _template_param_node(self, index: int) -> _Node:
        if self._closure_params is not None:
            declared = self._closure_params
            text = declared[index] if index < len(declared) else f"auto:{index + 1}"
            return _Node("auto", str(index), _Node("name", text))
        if self._template_args is None:
            node = _Node("forward", str(index))
            self._forward.append(node)
            return node
        return self._resolve_template_param(index)

    def _resolve_template_param(self, index: int) -> _Node:
        if self._template_args is None or index >= len(self._template_args):
            raise _Unknown
        return _Node("param", str(index), self._template_args[index])

    def _template_args_of_name(self) -> _Node:
        """Take the template arguments of the name that is being declared: T_ means them."""
        self._template_args = None if self._forward else self._template_args
        arguments = self._template_args_list()
        self._template_args = arguments.parts
        return arguments

    def _template_args_list(self) -> _Node:
        self._enter()
        self._expect("I")
        saved = self._is_typeless, self._method_qualifiers
        arguments: list[_Node] = []
        while not self._accept("E"):
            arguments.append(self._template_arg())
        self._is_typeless, self._method_qualifiers = saved
        self._depth -= 1
        return _Node("list", "", *arguments)

    def _template_arg(self) -> _Node:
        first = self._peek()
        if first == "X":
            self._at += 1
            node = self._expression()
            self._expect("E")
            return _Node("argument", "", node)
        if first == "L":
            return self._literal()
        if first in {"J", "I"}:
            self._at += 1
            parts: list[_Node] = []
            while not self._accept("E"):
                parts.append(self._template_arg())
            return _Node("pack", "", *parts)
        return self._type()

    # -- types

    def _type(self) -> _Node:
        self._enter()
        saved = self._has_template_args, self._is_typeless, self._method_qualifiers
        node = self._type_body()
        self._has_template_args, self._is_typeless, self._method_qualifiers = saved
        self._depth -= 1
        return node

    def _type_body(self) -> _Node:
        first = self._peek()
        builtin = _BUILTIN_TYPES.get(first)
        if builtin is not None:
            self._at += 1
            return _Node("name", builtin)
        if first in _QUALIFIERS:
            return self._qualified_type()
        match first:
            case "P" | "R" | "O":
                self._at += 1
                kind = {"P": "*", "R": "&", "O": "&&"}[first]
                return self._remember(_Node("pointer", kind, self._type()))
            case "C" | "G":
                self._at += 1
                kind = " _Complex" if first == "C" else " _Imaginary"
                return self._remember(_Node("suffixed", kind, self._type()))
            case "U":
                self._at += 1
                name = self._source_name()
                if self._peek() == "I":
                    name = _Node("template", "", name, self._template_args_list())
                return self._remember(_Node("vendor", "", self._type(), name))
            case "u":
                self._at += 1
                return self._remember(self._source_name())
            case "F":
                return self._remember(self._function_type(""))
            case "A":
                return self._remember(self._array_type())
            case "M":
                self._at += 1
                owner = self._type()
                return self._remember(_Node("member", "", self._type(), owner))
            case "D":
                return self._d_type()
            case "T":
                if self._peek(2) in {"Ts", "Tu", "Te"}:
                    self._at += 2
                    return self._remember(self._name())
                node = self._remember(self._template_param())
                if self._peek() == "I" and not self._is_conversion_argument(node):
                    arguments = self._template_args_list()
                    node = self._remember(_Node("template", "", node, arguments))
                return node
            case "S" if self._peek(2) != "St":
                node = self._substitution()
                if self._peek() == "I":
                    arguments = self._template_args_list()
                    node = self._remember(_Node("template", "", node, arguments))
                elif node.kind == "name" and node.text in _STANDARD.values():
                    return node
                return node
            case _:
                return self._remember(self._name_as_type())

    @staticmethod
    def _is_conversion_argument(node: _Node) -> bool:
        """Whether what follows `cv T_` are the arguments of the operator, not of T_."""
        return node.kind == "forward"

    def _name_as_type(self) -> _Node:
        """Take a class: its template arguments are not what T_ means afterwards."""
        saved = self._template_args
        node = self._name()
        self._template_args = saved
        return node

    def _qualified_type(self) -> _Node:
        qualifiers = ""
        while self._peek() in _QUALIFIERS:
            qualifiers = _QUALIFIERS[self._take(1)] + qualifiers
        if self._peek() == "F" or self._peek(2) in {"Do", "DO", "Dw", "Dx"}:
            return self._remember(self._function_type(qualifiers))
        return self._remember(_Node("qualified", qualifiers, self._type()))

    def _function_type(self, qualifiers: str) -> _Node:
        exceptions = ""
        if self._accept("Do"):
            exceptions = " noexcept"
        elif self._accept("Dw"):
            types: list[_Node] = []
            while not self._accept("E"):
                types.append(self._type())
            exceptions = " throw"
        elif self._accept("DO"):
            self._expression()
            self._expect("E")
            exceptions = " noexcept"
        self._accept("Dx")
        self._expect("F")
        self._accept("Y")
        returned = self._type()
        types = []
        reference = ""
        while not self._accept("E"):
            if self._peek(2) == "RE":
                self._at += 1
                reference = " &"
            elif self._peek(2) == "OE":
                self._at += 1
                reference = " &&"
            else:
                types.append(self._type())
        if len(types) == 1 and types[0].kind == "name" and types[0].text == "void":
            types = []
        parameters = _Node("list", "", *types)
        return _Node("function", qualifiers + reference + exceptions, returned, parameters)

    def _array_type(self) -> _Node:
        self._expect("A")
        dimension = _NOTHING
        if self._peek().isdigit():
            dimension = _Node("name", self._digits())
        elif self._peek() != "_":
            dimension = self._expression()
        self._expect("_")
        return _Node("array", "", self._type(), dimension)

    def _d_type(self) -> _Node:
        two = self._peek(2)
        kind = two[1:]
        if kind in _BUILTIN_D_TYPES:
            self._at += 2
            return _Node("name", _BUILTIN_D_TYPES[kind])
        match kind:
            case "p":
                self._at += 2
                return self._remember(_Node("expansion", "", self._type()))
            case "t" | "T":
                return self._remember(self._decltype())
            case "v":
                self._at += 2
                size = self._expression() if self._accept("_") else _Node("name", self._digits())
                self._expect("_")
                return self._remember(_Node("vector", "", self._type(), size))
            case "F":
                self._at += 2
                bits = self._digits()
                if self._accept("b"):
                    return _Node("name", "std::bfloat16_t")
                suffix = "x" if self._accept("x") else ""
                if not suffix:
                    self._expect("_")
                return _Node("name", f"_Float{bits}{suffix}")
            case "o" | "O" | "w" | "x":
                return self._remember(self._function_type(""))
            case _:
                raise _Unknown

    def _decltype(self) -> _Node:
        self._at += 2
        node = self._expression()
        self._expect("E")
        return _Node("decltype", "", node)

    # -- expressions

    def _literal(self) -> _Node:
        self._expect("L")
        if self._accept("_Z") or self._accept("Z"):
            node = self._encoding()
            self._expect("E")
            return node
        type_ = self._type()
        start = self._at
        while self._peek() not in {"E", "\0"}:
            self._at += 1
        value = self._text[start : self._at]
        self._expect("E")
        if value.startswith("n"):
            value = "-" + value[1:]
        return _Node("literal", value, type_)

    def _expressions(self) -> list[_Node]:
        found: list[_Node] = []
        while not self._accept("E"):
            found.append(self._expression())
        return found

    def _expression(self) -> _Node:
        self._enter()
        node = self._expression_body()
        self._depth -= 1
        return node

    def _expression_body(self) -> _Node:
        first, two = self._peek(), self._peek(2)
        if first == "L":
            return self._literal()
        if first == "T":
            return self._template_param()
        if first.isdigit():
            return self._simple_id()
        if two == "fp" or (two == "fL" and self._text[self._at + 2].isdigit()):
            return self._function_param()
        if two in {"fl", "fr", "fL", "fR"}:
            return self._fold(two)
        if two in {"pp", "mm"} and self._text[self._at + 2] == "_":
            self._at += 3
            return _Node("prefix", _OPERATORS[two][0], self._expression())
        self._at += 2
        match two:
            case "gs":
                return _Node("prefixed", "::", self._expression())
            case "sp":
                return _Node("expansion", "", self._expression())
            case "sr":
                return self._unresolved()
            case "on":
                node = self._operator_name()
                return self._with_arguments(node)
            case "dn":
                return _Node("destructor", "~", self._simple_id())
            case "st":
                return _Node("sizeof", "sizeof ", self._type())
            case "at":
                return _Node("sizeof", "alignof ", self._type())
            case "sZ":
                if self._peek() == "T":
                    return _Node("packsize", "", self._template_param())
                return _Node("packsize", "", self._function_param())
            case "sP":
                parts: list[_Node] = []
                while not self._accept("E"):
                    parts.append(self._template_arg())
                return _Node("packsize", "", _Node("pack", "", *parts))
            case "nx":
                return _Node("noexcept", "", self._expression())
            case "cl":
                callee = self._expression()
                return _Node("call", "", callee, _Node("list", "", *self._expressions()))
            case "cv":
                type_ = self._type()
                if self._accept("_"):
                    return _Node("cast", "", type_, _Node("list", "", *self._expressions()))
                return _Node("cast", "", type_, self._expression())
            case "tl":
                type_ = self._type()
                return _Node("braces", "", type_, _Node("list", "", *self._expressions()))
            case "il":
                return _Node("braces", "", _NOTHING, _Node("list", "", *self._expressions()))
            case "dt" | "pt":
                owner = self._expression()
                operator = "." if two == "dt" else "->"
                return _Node("access", operator, owner, self._expression())
            case "cc" | "dc" | "rc" | "sc":
                type_ = self._type()
                return _Node("named_cast", _CASTS[two], type_, self._expression())
            case "tr":
                return _Node("name", "throw")
            case "tw":
                return _Node("prefix", "throw ", self._expression())
            case "ti" | "te":
                operand = self._type() if two == "ti" else self._expression()
                return _Node("sizeof", "typeid ", operand)
            case "qu":
                parts = [self._expression() for _ in range(3)]
                return _Node("conditional", "", *parts)
            case "nw" | "na":
                return self._new("new " if two == "nw" else "new[] ")
        if two not in _OPERATORS:
            raise _Unknown
        text, operands = _OPERATORS[two]
        if two in {"pp", "mm"}:
            return _Node("postfix", text, self._expression())
        if operands == 1:
            return _Node("prefix", text, self._expression())
        if operands != 2:
            raise _Unknown
        left = self._expression()
        return _Node("binary", text, left, self._expression())

    def _new(self, text: str) -> _Node:
        placement: list[_Node] = []
        while not self._accept("_"):
            placement.append(self._expression())
        type_ = self._type()
        values = self._expressions() if self._accept("pi") else None
        if values is None:
            self._expect("E")
        braces = _NOTHING if values is None else _Node("list", "", *values)
        return _Node("new", text, _Node("list", "", *placement), type_, braces)

    def _simple_id(self) -> _Node:
        return self._with_arguments(self._source_name())

    def _with_arguments(self, node: _Node) -> _Node:
        if self._peek() == "I":
            return _Node("template", "", node, self._template_args_list())
        return node

    def _function_param(self) -> _Node:
        if self._accept("fL"):
            self._digits()
            self._expect("p")
        else:
            self._expect("fp")
        if self._accept("T"):
            return _Node("name", "this")
        while self._peek() in _QUALIFIERS:
            self._at += 1
        return _Node("name", f"{{parm#{self._sequence('0123456789') + 1}}}")

    def _fold(self, kind: str) -> _Node:
        self._at += 2
        operator = self._take(2)
        if operator not in _OPERATORS:
            raise _Unknown
        text = _OPERATORS[operator][0]
        first = self._expression()
        dots = _Node("name", "...")
        match kind:
            case "fl":
                return _Node("fold", text, dots, first)
            case "fr":
                return _Node("fold", text, first, dots)
            case _:
                return _Node("fold", text, first, dots, self._expression())

    def _unresolved(self) -> _Node:
        if self._accept("N"):
            node = self._type()
            while not self._accept("E"):
                node = _Node("nested", "", node, self._simple_id())
        elif self._peek().isdigit():
            node = self._simple_id()
            while not self._accept("E"):
                node = _Node("nested", "", node, self._simple_id())
        else:
            node = self._type()
        if self._accept("on"):
            return _Node("nested", "", node, self._with_arguments(self._operator_name()))
        if self._accept("dn"):
            return _Node("nested", "", node, _Node("destructor", "~", self._simple_id()))
        return _Node("nested", "", node, self._simple_id())


_Text = tuple[str, str]
"""What goes before a declared name, and what goes after it."""

_SIMPLE = frozenset({"name", "nested", "braces"})
"""Kinds that stand without parentheses in an expression."""


class _Printer:
    """Writes a tree as C++.

    Raises:
        _Unknown: From every method, when a cap is exceeded.
    """

    def __init__(self, *, signature: bool) -> None:
        self._signature = signature
        self._steps = 0
        self._depth = 0
        self._known: dict[tuple[int, int], _Text] = {}
        self._pack_sizes: dict[int, int | None] = {}
        self._index = -1
        """Which element of packs is meant; -1 outside of expansions."""

    def print(self, node: _Node) -> str:
        """Return the whole text of a tree."""
        if not self._signature:
            while node.kind == "clone":
                (node,) = node.parts
            if node.kind == "encoding":
                (node, *_) = node.parts
        return self._text(node)

    def _text(self, node: _Node) -> str:
        before, after = self._render(node)
        return before + after

    def _render(self, node: _Node) -> _Text:
        key = (id(node), self._index)
        known = self._known.get(key)
        if known is not None:
            return known
        self._steps += 1
        self._depth += 1
        if self._steps > MAX_STEPS or self._depth > 2 * MAX_DEPTH:
            raise _Unknown
        method = getattr(self, f"_print_{node.kind}")
        result: _Text = method(node)
        if len(result[0]) + len(result[1]) > MAX_OUTPUT:
            raise _Unknown
        self._depth -= 1
        self._known[key] = result
        return result

    def _join(self, parts: tuple[_Node, ...]) -> str:
        return self._join_texts(self._text(part) for part in parts)

    @staticmethod
    def _join_texts(texts: Iterable[str]) -> str:
        """Join what is not empty, without ever holding much more than may come out."""
        kept: list[str] = []
        size = 0
        for text in texts:
            if text:
                kept.append(text)
                size += len(text)
                if size > MAX_OUTPUT:
                    raise _Unknown
        return ", ".join(kept)

    def _resolve(self, node: _Node) -> tuple[_Node, int]:
        """Return what a template parameter stands for, and the index to render it with."""
        index = self._index
        for _ in range(MAX_DEPTH):
            if node.kind in {"param", "forward"} and node.parts:
                (node,) = node.parts
            elif node.kind == "pack" and 0 <= index < len(node.parts):
                node, index = node.parts[index], -1
            else:
                return node, index
        raise _Unknown

    def _render_at(self, node: _Node, index: int) -> _Text:
        """Render with the `index`-th elements of packs."""
        saved, self._index = self._index, index
        result = self._render(node)
        self._index = saved
        return result

    # -- names

    def _print_name(self, node: _Node) -> _Text:
        return node.text, ""

    def _print_nested(self, node: _Node) -> _Text:
        scope, name = node.parts
        return f"{self._text(scope)}::{self._text(name)}", ""

    def _print_local(self, node: _Node) -> _Text:
        function, name = node.parts
        if function.kind == "encoding":
            scope = (
                self._function_text(function) if self._signature else self._text(function.parts[0])
            )
        else:
            scope = self._text(function)
        return f"{scope}::{node.text}{self._text(name)}", ""

    def _print_template(self, node: _Node) -> _Text:
        name, arguments = node.parts
        before, inside = self._text(name), self._join(arguments.parts)
        if not self._signature and len(inside) > MAX_SHORT_ARGUMENTS:
            return f"{before}<...>", ""
        start = " <" if before.endswith("<") else "<"
        # c++filt forgets the space after an empty pack.
        space = inside.endswith(">") and self._text(arguments.parts[-1])
        return f"{before}{start}{inside}{' >' if space else '>'}", ""

    def _print_tagged(self, node: _Node) -> _Text:
        return self._text(node.parts[0]) + node.text, ""

    def _print_constructor(self, node: _Node) -> _Text:
        name = node.parts[0]
        for _ in range(MAX_DEPTH):
            name, _ = self._resolve(name)
            if name.kind in {"nested", "local"}:
                name = name.parts[1]
            elif name.kind in {"template", "tagged"}:
                name = name.parts[0]
            else:
                break
        text = self._text(name)
        if text.startswith("std::"):
            text = text.removeprefix("std::").partition("<")[0]
        return node.text + text, ""

    def _print_binding(self, node: _Node) -> _Text:
        return f"[{self._join(node.parts)}]", ""

    def _print_conversion(self, node: _Node) -> _Text:
        return f"operator {self._text(node.parts[0])}", ""

    def _print_closure(self, node: _Node) -> _Text:
        parameters, head = node.parts
        declared = f"<{self._join(head.parts)}>" if head.parts else ""
        return f"{{lambda{declared}({self._join(parameters.parts)})#{node.text}}}", ""

    def _print_clone(self, node: _Node) -> _Text:
        return self._text(node.parts[0]) + node.text, ""

    def _print_special(self, node: _Node) -> _Text:
        inner = node.parts[0]
        if not self._signature and inner.kind == "encoding":
            inner = inner.parts[0]
        return node.text + self._text(inner), ""

    def _print_construction(self, node: _Node) -> _Text:
        base, derived = node.parts
        return f"construction vtable for {self._text(base)}-in-{self._text(derived)}", ""

    def _print_encoding(self, node: _Node) -> _Text:
        if not self._signature:
            return self._text(node.parts[0]), ""
        returned = node.parts[1]
        text = self._function_text(node)
        if returned is _NOTHING:
            return text, ""
        before, after = self._render(returned)
        return f"{before}{'' if after else ' '}{text}{after}", ""

    def _function_text(self, node: _Node) -> str:
        """Return name, parameters and qualifiers of an encoding, without what it returns."""
        name, _, parameters = node.parts
        return f"{self._text(name)}({self._join(parameters.parts)}){node.text}"

    # -- references

    def _print_param(self, node: _Node) -> _Text:
        return self._render(node.parts[0])

    def _print_auto(self, node: _Node) -> _Text:
        return self._render(node.parts[0])

    def _print_forward(self, node: _Node) -> _Text:
        if not node.parts:
            raise _Unknown
        return self._render(node.parts[0])

    def _print_pack(self, node: _Node) -> _Text:
        if self._index < 0:
            return self._join(node.parts), ""
        if self._index < len(node.parts):
            # Packs in an element are not the ones that are being expanded.
            return self._render_at(node.parts[self._index], -1)
        return "", ""

    def _print_expansion(self, node: _Node) -> _Text:
        size = self._pack_size(node.parts[0])
        if size is None:
            return self._text(node.parts[0]) + "...", ""
        texts = ("".join(self._render_at(node.parts[0], index)) for index in range(size))
        return self._join_texts(texts), ""

    def _pack_size(self, node: _Node) -> int | None:
        """Return the number of elements of the first pack in a pattern."""
        waiting, seen = [node], set()
        while waiting:
            part = waiting.pop()
            if part.kind == "pack":
                return len(part.parts)
            if id(part) in seen or part.kind == "expansion":
                continue
            seen.add(id(part))
            self._steps += 1
            if self._steps > MAX_STEPS:
                raise _Unknown
            waiting.extend(reversed(part.parts))
        return None

    def _print_list(self, node: _Node) -> _Text:
        return self._join(node.parts), ""

    # -- types

    def _print_pointer(self, node: _Node) -> _Text:
        target, index = self._resolve(node.parts[0])
        mark = node.text
        if mark != "*" and target.kind == "pointer" and target.text != "*":
            # References to references collapse to & if either is one.
            mark = "&" if "&" in {mark, target.text} else "&&"
            target = target.parts[0]
        before, after = self._render_at(target, index)
        return self._around(target, before, mark, after)

    def _around(self, target: _Node, before: str, mark: str, after: str) -> _Text:
        """Put the mark of a pointer where the name goes, in parentheses if it must be."""
        inner, _ = self._resolve(target)
        while inner.kind == "qualified":
            inner, _ = self._resolve(inner.parts[0])
        if inner.kind == "function":
            return f"{before}({mark}", f"){after}"
        if inner.kind == "array":
            return f"{before} ({mark}", f"){after}"
        return before + mark, after

    def _print_qualified(self, node: _Node) -> _Text:
        before, after = self._render(node.parts[0])
        target, _ = self._resolve(node.parts[0])
        if target.kind == "function":
            return before, after + node.text
        if target.kind == "qualified":
            new = "".join(f" {word}" for word in node.text.split() if f" {word}" not in target.text)
            return before + new, after
        if target.kind == "pointer" and target.text != "*":
            return before, after  # a reference cannot be qualified
        return before + node.text, after

    def _print_suffixed(self, node: _Node) -> _Text:
        return self._text(node.parts[0]) + node.text, ""

    def _print_vendor(self, node: _Node) -> _Text:
        type_, name = node.parts
        before, after = self._render(type_)
        return f"{before} {self._text(name)}", after

    def _print_function(self, node: _Node) -> _Text:
        returned, parameters = node.parts
        before, after = self._render(returned)
        space = "" if after else " "
        return before + space, f"({self._join(parameters.parts)}){node.text}{after}"

    def _print_array(self, node: _Node) -> _Text:
        element, dimension = node.parts
        before, after = self._render(element)
        inner = after.removeprefix(" ") if after.startswith(" [") else after
        return before, f" [{self._text(dimension)}]{inner}"

    def _print_member(self, node: _Node) -> _Text:
        type_, owner = node.parts
        target, _ = self._resolve(type_)
        before, after = self._render(type_)
        mark = f"{self._text(owner)}::*"
        if target.kind in {"function", "array"}:
            return self._around(target, before, mark, after)
        return f"{before} {mark}", after

    def _print_vector(self, node: _Node) -> _Text:
        type_, size = node.parts
        return f"{self._text(type_)} __vector({self._text(size)})", ""

    def _print_decltype(self, node: _Node) -> _Text:
        return f"decltype ({self._text(node.parts[0])})", ""

    # -- expressions

    def _operand(self, node: _Node) -> str:
        text = self._text(node)
        simple = node.kind in _SIMPLE
        if node.kind == "nested" and node.parts[1].kind == "template":
            simple = False
        return text if simple else f"({text})"

    def _print_argument(self, node: _Node) -> _Text:
        text = self._text(node.parts[0])
        inner = node.parts[0]
        return (f"({text})" if inner.kind == "binary" and inner.text == ">" else text), ""

    def _print_literal(self, node: _Node) -> _Text:
        type_, value = self._text(node.parts[0]), node.text
        if type_ in _LITERAL_SUFFIXES:
            return value + _LITERAL_SUFFIXES[type_], ""
        if type_ == "bool" and value in {"0", "1"}:
            return ("true" if value == "1" else "false"), ""
        return f"({type_}){value}", ""

    def _print_prefix(self, node: _Node) -> _Text:
        operand = node.parts[0]
        if (
            node.text == "&"
            and operand.kind == "encoding"
            and operand.parts[0].kind == "nested"
            and not operand.text
        ):
            return node.text + self._text(operand.parts[0]), ""
        return node.text + self._operand(node.parts[0]), ""

    def _print_postfix(self, node: _Node) -> _Text:
        return self._operand(node.parts[0]) + node.text, ""

    def _print_prefixed(self, node: _Node) -> _Text:
        return node.text + self._text(node.parts[0]), ""

    def _print_destructor(self, node: _Node) -> _Text:
        return node.text + self._text(node.parts[0]), ""

    def _print_binary(self, node: _Node) -> _Text:
        left, right = node.parts
        if node.text == "[]":
            return f"{self._operand(left)}[{self._text(right)}]", ""
        return f"{self._operand(left)}{node.text}{self._operand(right)}", ""

    def _print_conditional(self, node: _Node) -> _Text:
        condition, yes, no = (self._operand(part) for part in node.parts)
        return f"{condition}?{yes} : {no}", ""

    def _print_sizeof(self, node: _Node) -> _Text:
        return f"{node.text}({self._text(node.parts[0])})", ""

    def _print_packsize(self, node: _Node) -> _Text:
        size = self._pack_size(node.parts[0])
        if size is None:
            raise _Unknown
        return str(size), ""

    def _print_noexcept(self, node: _Node) -> _Text:
        return f"noexcept({self._text(node.parts[0])})", ""

    def _print_call(self, node: _Node) -> _Text:
        callee, arguments = node.parts
        return f"{self._operand(callee)}({self._join(arguments.parts)})", ""

    def _print_cast(self, node: _Node) -> _Text:
        type_, operand = node.parts
        text = f"({self._text(operand)})" if operand.kind == "list" else self._operand(operand)
        return f"({self._text(type_)}){text}", ""

    def _print_named_cast(self, node: _Node) -> _Text:
        type_, operand = node.parts
        return f"{node.text}<{self._text(type_)}>({self._text(operand)})", ""

    def _print_braces(self, node: _Node) -> _Text:
        type_, values = node.parts
        return f"{self._text(type_)}{{{self._join(values.parts)}}}", ""

    def _print_new(self, node: _Node) -> _Text:
        placement, type_, values = node.parts
        where = f"({self._join(placement.parts)}) " if placement.parts else ""
        after = "" if values is _NOTHING else f"({self._join(values.parts)})"
        return f"{node.text}{where}{self._text(type_)}{after}", ""

    def _print_access(self, node: _Node) -> _Text:
        owner, name = node.parts
        return f"{self._operand(owner)}{node.text}{self._text(name)}", ""

    def _print_fold(self, node: _Node) -> _Text:
        saved, self._index = self._index, -1  # a fold takes whole packs
        texts = [part.text if part.text == "..." else self._operand(part) for part in node.parts]
        self._index = saved
        return f"({node.text.join(texts)})", ""
