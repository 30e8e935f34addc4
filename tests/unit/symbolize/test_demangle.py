"""C++ and Rust names against c++filt's text, and against whatever else a file may contain."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.symbolize.demangle import MAX_OUTPUT, MAX_SHORT, demangle, short_name

_LINES = (Path(__file__).parent / "demangled.tsv").read_text(encoding="utf-8").splitlines()
CASES = [line.split("\t") for line in _LINES]
"""Mangled name, text of `c++filt -i` (GNU Binutils 2.40), short name; real ones and hand-made ones,
some of them malformed."""


@pytest.mark.parametrize(("mangled", "full", "short"), CASES, ids=[case[0] for case in CASES])
def test_same_text_as_cxxfilt(mangled: str, full: str, short: str) -> None:
    assert demangle(mangled) == full
    assert short_name(mangled) == short


@pytest.mark.parametrize(
    ("mangled", "short"),
    [
        ("malloc", "malloc"),
        ("", ""),
        (".cold", ".cold"),
        ("deflate_fast.constprop.0", "deflate_fast"),
        ("uv__io_poll.part.1.cold", "uv__io_poll"),
        ("Builtins_ArrayMap", "Builtins_ArrayMap"),
        ("main.js", "main.js"),
        ("_ZN2v88internal4Heap14CollectGarbageEi.cold", "v8::internal::Heap::CollectGarbage"),
        ("_ZZN1A1fEvENKUliE_clEi", "A::f::{lambda(int)#1}::operator()"),
        (
            "_Z3mapISt3mapIiSsSt4lessIiESaISt4pairIKiSsEEEEvT_",
            (
                "map<std::map<int, std::string, "
                "std::less<int>, std::allocator<std::pair<int const, std::string> > > >"
            ),
        ),
    ],
)
def test_short_names(mangled: str, short: str) -> None:
    assert short_name(mangled) == short


def test_endless_template_arguments_are_left_out_of_short_names() -> None:
    arguments = "".join(f"10argument_{n}" for n in range(10)) * 3
    mangled = f"_ZN1AI1BI{arguments}EE3runEv"
    assert short_name(mangled) == "A<B<...> >::run"
    assert "argument_9" in demangle(mangled)


def test_short_names_are_cut() -> None:
    assert len(short_name("x" * 10_000)) == MAX_SHORT
    assert short_name("x" * 10_000).endswith("x...")


def test_names_that_grow_without_bound_are_refused() -> None:
    nested_pairs = "_Z1f" + "1p" + "I" * 400
    functions = "_Z1f" + "PF" * 2000 + "v" + "E" * 2000
    packs = "_Z1fIJ" + "i" * 3000 + "EEvDp" + "PDp" * 50 + "T_"
    for mangled in (nested_pairs, functions, packs, "_ZN" + "1a" * 8000 + "Ev"):
        assert len(demangle(mangled)) <= MAX_OUTPUT
        assert len(short_name(mangled)) <= MAX_SHORT


def doubling(count: int) -> str:
    """Return f(A, B<A, A>, B<that, that>, ...): each parameter twice as long as the one before."""
    name = "_Z1f1A1BIS_S_E"
    for index in range(1, count):
        digit = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[2 * index - 1]
        name += f"1BIS{digit}_S{digit}_E"
    return name


def test_exponential_names_are_refused() -> None:
    assert demangle(doubling(3)) == (
        "f(A, B<A, A>, B<B<A, A>, B<A, A> >, B<B<B<A, A>, B<A, A> >, B<B<A, A>, B<A, A> > >)"
    )
    assert demangle(doubling(17)) == doubling(17)
    many = doubling(11) + "SL_" * 5000
    assert demangle(many) == many


@given(st.text(alphabet="NSTIEJPRKOFAMDLXZCGUtaspclvidbx_0123456789.", max_size=60))
def test_any_mangled_text_gives_a_text(rest: str) -> None:
    for name in ("_Z" + rest, "_ZN" + rest, "_Z1fI" + rest, "_Z1f" + rest):
        assert isinstance(demangle(name), str)
        assert len(short_name(name)) <= max(MAX_SHORT, len(name))


def test_a_hash_alone_is_not_of_rust() -> None:
    assert isinstance(demangle("_Z5alloc3vec17h0123456789abcdefE"), str)


@given(st.sampled_from(CASES), st.data())
def test_damaged_names_give_a_text(case: list[str], data: st.DataObject) -> None:
    mangled = case[0]
    at = data.draw(st.integers(0, len(mangled)))
    piece = data.draw(st.sampled_from(["", "E", "I", "S_", "T_", "Dp", "J", "9", "Z", "N", "X"]))
    demangle(mangled[:at] + piece + mangled[at + 1 :])


@given(st.text(max_size=30))
def test_other_text_stays(text: str) -> None:
    if not text.startswith("_"):
        assert demangle(text) == text
