"""Counters only grow, their number is bounded, and whatever names are, parsers read the text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from jsspy.exporters.prometheus import (
    MAX_LABEL,
    MAX_SIGNATURES,
    Signatures,
    SignaturesGauge,
    TopCounters,
    Totals,
    TotalsCollector,
    encode_metrics,
)
from jsspy.model.profile import Profile
from jsspy.model.sample import LossReason, VmState
from jsspy.model.stack import Frame, FrameKind, Truncation
from jsspy.target.cgroup import Place
from profiles import (
    ENTRY,
    HOSTILE_NAMES,
    HOT,
    MAIN,
    PERIOD_NS,
    deep,
    hostile,
    js,
    profile_of,
    small,
)

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(text: bytes) -> Values:
    """Parse an exposition; a series that is there twice fails the test."""
    values: Values = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in values
            values[key] = sample.value
    return values


def totals_of(*profiles: Profile) -> Totals:
    totals = Totals()
    for profile in profiles:
        totals.add(profile)
    return totals


def scrape(totals: Totals) -> Values:
    return read(encode_metrics([TotalsCollector(totals, "1.2.3")], "")[0])


def total(values: Values, name: str) -> float:
    return sum(value for (metric, _), value in values.items() if metric == name)


@given(
    st.lists(st.dictionaries(st.integers(0, 30), st.integers(1, 1000), max_size=12), max_size=80),
    st.integers(1, 6),
)
def test_every_increase_is_in_exactly_one_series(rounds: list[dict[int, int]], limit: int) -> None:
    counters = TopCounters[int](limit)
    increase = 0
    for weights in rounds:
        before, other = dict(counters.counts), counters.other
        counters.add(weights)
        assert len(counters.counts) <= limit
        assert counters.other >= other
        increase += counters.other - other
        for key, value in counters.counts.items():
            if value < before.get(key, 0):  # it lost its series and has it again: a restart
                before[key] = 0
            assert value >= before.get(key, 0)
        # What a series got in a round in which it was dropped cannot be seen by a scrape after it.
        seen = {key: counters.counts.get(key, 0) - before.get(key, 0) for key in weights}
        assert all(seen[key] in {0, -before.get(key, 0), weights[key]} for key in weights)
    assert increase == counters.other


def test_what_becomes_heavy_gets_a_series() -> None:
    counters = TopCounters[str](2)
    for _ in range(50):
        counters.add({"a": 10, "b": 9, "c": 1})
    assert set(counters.counts) == {"a", "b"}
    assert counters.other == 50
    for _ in range(200):
        counters.add({"b": 9, "c": 100})
    assert set(counters.counts) == {"b", "c"}
    assert len(counters._scores) <= 16


def test_totals_add_up() -> None:
    profile = small()
    values = scrape(totals_of(profile, profile))
    seconds = 2 * profile.total_weight() / 1e9
    for name in ("function", "package", "process"):
        assert abs(total(values, f"jsspy_{name}_cpu_seconds_total") - seconds) < 1e-9
    assert abs(total(values, "jsspy_vm_state_seconds_total") - seconds) < 1e-9
    assert total(values, "jsspy_samples_total") == 2 * profile.stats.requested
    assert values["jsspy_lost_samples_total", (("reason", LossReason.LATE.value),)] == 4
    why = Truncation.BROKEN_CHAIN.value
    assert values["jsspy_truncated_samples_total", (("reason", why),)] == 2
    hot = (("file", "/app/lib/hot.js"), ("function", "hot"), ("line", "10"))
    assert values["jsspy_function_cpu_seconds_total", hot] == 2 * 5 * PERIOD_NS / 1e9


def test_scraping_changes_nothing() -> None:
    totals = totals_of(small())
    first = encode_metrics([TotalsCollector(totals, "1")], "")
    assert encode_metrics([TotalsCollector(totals, "1")], "") == first


def test_processes_have_their_place() -> None:
    totals = Totals()
    profile = small()
    pid = profile.threads[0].pid
    totals.add(profile, {pid: Place("c" * 64, "7e2f", 'a"b')})
    (labels,) = [
        dict(labels)
        for name, labels in scrape(totals)
        if name == "jsspy_process_cpu_seconds_total" and ("pid", str(pid)) in labels
    ]
    assert labels["container_id"] == "c" * 64
    assert labels["pod_uid"] == "7e2f"
    assert labels["service"] == 'a"b'


def test_functions_beyond_the_bound_are_one_series() -> None:
    totals = Totals(functions=5)
    totals.add(profile_of(*[(MAIN, js(f"f{index}", line=index + 1)) for index in range(40)]))
    values = scrape(totals)
    names = [labels for name, labels in values if name == "jsspy_function_cpu_seconds_total"]
    assert len(names) == 6
    other = (("file", ""), ("function", "other"), ("line", ""))
    assert abs(values["jsspy_function_cpu_seconds_total", other] - 35 * PERIOD_NS / 1e9) < 1e-9


def test_hostile_names_are_read_back() -> None:
    profile = hostile()
    signatures = Signatures()
    signatures.add(profile)
    families = TotalsCollector(totals_of(profile), 'a"b\\c\n')
    gauge = SignaturesGauge(signatures)
    text, content_type = encode_metrics([families], "", gauge)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert text.endswith(b"\n")
    assert b"\0" not in text
    assert b"\r" not in text
    values = read(text)
    for _, labels in values:
        for key, value in labels:
            assert key == "signature" or len(value) <= MAX_LABEL + len("(anonymous )")
    text, content_type = encode_metrics([families], OPENMETRICS, gauge)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert text.endswith(b"# EOF\n")
    assert list(parse_openmetrics(text.decode()))  # type: ignore[no-untyped-call]  # theirs


def test_signatures_are_promfilers() -> None:
    anonymous = js("", "/app/a.js", 7)
    private = js("#priv", "/app/a.js", 9)
    profile = profile_of(
        (ENTRY, MAIN, HOT),
        (ENTRY, MAIN, HOT),
        (ENTRY, MAIN),
        (ENTRY, HOT, anonymous, private),
        (ENTRY, HOT, Frame("memcpy", FrameKind.NATIVE)),
        (ENTRY, Frame("memcpy", FrameKind.NATIVE)),
        (ENTRY, HOT, js("slash_metrics_handler"), HOT),
        (ENTRY, HOT),
        (ENTRY,),
    )
    profile.vm_state[7] = profile.vm_state[8] = VmState.GC
    signatures = Signatures()
    signatures.add(profile)
    main = "(root)#(anonymous /app/main.js:1)"
    assert signatures.series() == {
        main: 1,
        f"{main}#hot": 2,
        "(root)#hot": 1,
        "(root)#hot#(anonymous /app/a.js:7)": 0,
        "(root)#hot#(anonymous /app/a.js:7)#%23priv": 1,
        "(root)#hot#(garbage collector)": 1,
    }


def test_functions_of_one_name_are_added_up() -> None:
    signatures = Signatures()
    signatures.add(profile_of((js("f", "/a.js"),), (js("f", "/b.js"),), (js("f", "/b.js", 9),)))
    assert signatures.series() == {"(root)#f": 3}


@given(st.integers(1, 12), st.lists(st.integers(0, 40), max_size=60))
def test_signatures_are_bounded_and_lose_no_sample(limit: int, calls: list[int]) -> None:
    signatures = Signatures(limit)
    for call in calls:
        signatures.add(profile_of((js(f"a{call % 7}"), js(f"b{call}"))))
    series = signatures.series()
    # A caller is a series as well.
    assert len(series) <= 2 * limit + 1
    assert len(signatures.counts) <= 2 * limit
    assert sum(series.values()) == len(calls)


def test_deep_and_long_signatures_are_cut() -> None:
    signatures = Signatures()
    signatures.add(deep())
    for name in HOSTILE_NAMES:
        signatures.add(profile_of((js(name),) * 300))
    series = signatures.series()
    assert sum(map(len, series)) <= MAX_SIGNATURES + 100
    assert any(signature.endswith("#(truncated)") for signature in series)


def test_five_thousand_stacks_are_shown_with_their_callers() -> None:
    signatures = Signatures()
    callers = [js(f"caller{depth}") for depth in range(8)]
    leaves = [js(f"f{index}") for index in range(50)]
    stacks = [(*callers, outer, inner, HOT) for outer in leaves for inner in leaves]
    stacks += [(*callers[:4], outer, inner) for outer in leaves for inner in leaves]
    signatures.add(profile_of(*stacks, stacks[7]))
    series = signatures.series()
    assert sorted(series.values())[-5000:] == [1] * 4999 + [2]
    assert Signatures.OTHER not in series
    assert all(name.rpartition("#")[0] in {"(root)", *series} for name in series)


def test_of_long_stacks_those_with_samples_come_first() -> None:
    signatures = Signatures()
    callers = [js(f"{'caller' * 5}{depth}") for depth in range(20)]
    leaves = [js(f"f{index}") for index in range(70)]
    stacks = [(*callers, outer, inner, HOT) for outer in leaves for inner in leaves]
    signatures.add(profile_of(*stacks))
    series = signatures.series()
    assert sum(series.values()) == sum(map(bool, series.values())) == 4900
    assert sum(map(len, series)) <= MAX_SIGNATURES


def test_long_signatures_do_not_pile_up() -> None:
    signatures = Signatures()
    for index in range(3):
        names = [js(f"{'x' * 150}{index}-{number}") for number in range(50)]
        signatures.add(profile_of(*((*names, js(str(leaf))) for leaf in range(600))))
        assert sum(map(len, signatures.counts)) <= 2 * MAX_SIGNATURES
    assert sum(signatures.series().values()) == 3 * 600


def test_nothing_sampled_is_no_series() -> None:
    assert read(encode_metrics([], "", SignaturesGauge(Signatures()))[0]) == {}
    assert total(scrape(Totals()), "jsspy_samples_total") == 0


def test_namespace_renames_the_gauge() -> None:
    signatures = Signatures()
    signatures.add(profile_of((HOT,)))
    text, _ = encode_metrics([], "", SignaturesGauge(signatures, "shop"))
    assert read(text) == {("shop_cpu_profile", (("signature", "(root)#hot"),)): 1.0}
