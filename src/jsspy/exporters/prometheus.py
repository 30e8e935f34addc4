"""Profiles as Prometheus metrics: counters that only grow, and never more series than a bound.

`Totals` adds up profiles. A scrape changes nothing in it, so any number of scrapers see the same.
`Signatures` is promfiler's one gauge: self samples by stack, since the start.

The number of functions in a program has no bound that a time series database would like. So only
the heaviest have a series of their own, and everything else is in the series `other`. A function
that becomes heavy begins a series at 0: what it took before stays in `other`, which never shrinks.
One that was heavy loses its series and begins again at 0 if it comes back, which Prometheus reads
as a restart. Hence rates are right, and so is their sum over all series, at every moment.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from jsspy.model.names import VM_KINDS, clean, file_of, function_name, package_of, place_of
from jsspy.model.profile import Profile
from jsspy.model.sample import LossReason, VmState
from jsspy.model.stack import Frame, FrameKind, Truncation
from jsspy.target.cgroup import NOWHERE, Place

K = TypeVar("K", bound=Hashable)

MAX_LABEL = 200
"""Characters of a label's value; bundlers make names of any length."""

MAX_SIGNATURE = 8192
"""Characters of promfiler's label: about 300 frames. A deeper stack loses its middle."""

MAX_SIGNATURES = 4 << 20
"""Characters of all signatures: a scrape is not to grow beyond it, however deep stacks are."""

_RERANK_EVERY = 10
"""Profiles between two looks at who is heaviest."""
_DECAY = 0.9
"""Of a score at each look: with a profile a second, half of it is gone after a minute."""
_CANDIDATES = 8
"""Keys whose score is kept, for each that has a series."""
_HYSTERESIS = 1.5
"""How much heavier a key must be than one with a series to take its place."""

_END = b"# EOF\n"
"""Of OpenMetrics."""

_SCRIPT_KINDS = frozenset({FrameKind.JS, FrameKind.WASM})

_Function = tuple[str, str, str]
"""Name, file, line."""

_Process = tuple[str, str, str, str, str]
"""Pid, name, and the fields of its `Place`."""


class TopCounters(Generic[K]):
    """Counters of the heaviest keys, and one for everything else. All of them only grow."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.counts: dict[K, int] = {}
        self.other = 0
        self._scores: dict[K, float] = {}
        self._rounds = 0

    def add(self, weights: Mapping[K, int]) -> None:
        """Count what one interval adds to each key."""
        counts, scores = self.counts, self._scores
        for key, weight in weights.items():
            if key not in counts and len(counts) < self.limit:
                counts[key] = 0
            if key in counts:
                counts[key] += weight
            else:
                self.other += weight
            scores[key] = scores.get(key, 0.0) + weight
        self._rounds += 1
        if self._rounds % _RERANK_EVERY == 0 or len(scores) > 2 * _CANDIDATES * self.limit:
            self._rerank()

    def _rerank(self) -> None:
        """Give series to keys that became heavier than some that have one."""
        ranked = sorted(self._scores.items(), key=lambda item: -item[1])
        del ranked[_CANDIDATES * self.limit :]
        self._scores = {key: score * _DECAY for key, score in ranked}
        outside = [key for key, _ in ranked if key not in self.counts]
        coldest = sorted(self.counts, key=lambda key: self._scores.get(key, 0.0))
        for hot, cold in zip(outside, coldest, strict=False):
            if self._scores[hot] <= _HYSTERESIS * self._scores.get(cold, 0.0):
                break
            del self.counts[cold]
            self.counts[hot] = 0


class Totals:
    """Everything that /metrics tells, added up from profiles of consecutive intervals."""

    def __init__(self, *, functions: int = 50, packages: int = 50, processes: int = 100) -> None:
        """Begin at zero.

        Args:
            functions: How many functions have a series of their own.
            packages: Likewise, packages.
            processes: Likewise, processes.
        """
        self.functions = TopCounters[_Function](functions)
        self.packages = TopCounters[tuple[str]](packages)
        self.processes = TopCounters[_Process](processes)
        self.vm_states: dict[VmState, int] = {}
        self.stacks = 0
        self.requested = 0
        self.idle = 0
        self.lost: dict[LossReason, int] = {}
        self.truncated: dict[Truncation, int] = {}
        self.pauses = 0
        self.pause_ns = 0
        self.longest_pause_ns = 0
        self.sampler_cpu_ns = 0
        self.engine = ""
        """What samples, as the last profile says."""
        self.unreadable = 0
        """Recordings of one interval that could not be read, so that it is not known what they
        held."""
        self.targets = 0
        """Processes that are sampled now."""
        self.denied = 0
        """Processes that were found but may not be read."""
        self.serving_cpu_ns = 0
        """CPU time of this process, as whoever serves the metrics last wrote it down."""

    def add(self, profile: Profile, places: Mapping[int, Place] | None = None) -> None:
        """Add what was sampled in one interval.

        Args:
            profile: Its statistics are those of the interval.
            places: Where its processes run, by pid.
        """
        places = places or {}
        leaves = _Leaves(profile)
        functions: dict[_Function, int] = {}
        packages: dict[tuple[str], int] = {}
        processes: dict[_Process, int] = {}
        rows = zip(profile.stack, profile.thread, profile.weight, profile.vm_state, strict=True)
        for row, thread, weight, vm_state in rows:
            function, package = leaves.find(row)
            functions[function] = functions.get(function, 0) + weight
            packages[package] = packages.get(package, 0) + weight
            info = profile.threads[thread]
            place = places.get(int(info.pid), NOWHERE)
            process = (
                *(str(info.pid), _label(info.process_name)),
                *(place.container_id, place.pod_uid, _label(place.service)),
            )
            processes[process] = processes.get(process, 0) + weight
            self.vm_states[vm_state] = self.vm_states.get(vm_state, 0) + weight
        self.functions.add(functions)
        self.packages.add(packages)
        self.processes.add(processes)
        self.engine = profile.meta.engine or self.engine
        stats = profile.stats
        self.stacks += len(profile) - len(profile.truncated)
        self.requested += stats.requested
        self.idle += stats.idle
        for reason, count in stats.lost.items():
            self.lost[reason] = self.lost.get(reason, 0) + count
        for why in profile.truncated.values():
            self.truncated[why] = self.truncated.get(why, 0) + 1
        self.pauses += stats.pauses[0]
        self.pause_ns += stats.pauses.total_ns
        self.longest_pause_ns = max(self.longest_pause_ns, stats.pauses.max_ns)
        self.sampler_cpu_ns += stats.profiler_cpu_ns


class _Leaves:
    """Who is charged for the samples of a profile, by stack row."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._known: dict[int, tuple[_Function, tuple[str]]] = {}

    def find(self, row: int) -> tuple[_Function, tuple[str]]:
        """Return function and package of the leaf; V8's glue is charged to whom it serves."""
        known = self._known.get(row)
        if known is None:
            known = self._known[row] = self._describe(row)
        return known

    def _describe(self, row: int) -> tuple[_Function, tuple[str]]:
        for frame in self._profile.iter_frames(row):
            if frame.kind not in VM_KINDS:
                place = place_of(frame)
                line = str(place.line) if place is not None and place.line is not None else ""
                file = _label(file_of(frame))
                return (_label(function_name(frame)), file, line), (_label(package_of(frame)),)
        return ("(no stack)", "(other)", ""), ("(other)",)


class Signatures:
    """promfiler's gauge: self samples of each stack of function names, since the start.

    The names are joined by `#`, from `(root)` on. As in promfiler only JavaScript has frames: what
    V8 or native code does is its JavaScript caller's, and without one it is `(program)`, which is
    left out, as are the garbage collector at depth 2 and the handler of the scrape itself.
    """

    HIDDEN = frozenset({"slash_metrics_handler"})
    OTHER = "(root)#(other)"

    def __init__(self, limit: int = 5000) -> None:
        """Begin at zero.

        Args:
            limit: How many stacks there may be; what is beyond is in `(root)#(other)`.
        """
        self.limit = limit
        self.counts: dict[str, int] = {}
        self.other = 0
        self._size = 0

    def add(self, profile: Profile) -> None:
        """Add the samples of one interval."""
        signatures: dict[tuple[int, bool], str | None] = {}
        for row, vm_state in zip(profile.stack, profile.vm_state, strict=True):
            key = (row, vm_state is VmState.GC)
            if key not in signatures:
                signatures[key] = _signature(profile, *key)
            signature = signatures[key]
            if signature is None:
                continue
            if signature not in self.counts:
                self.counts[signature] = 0
                self._size += len(signature)
            self.counts[signature] += 1
        if len(self.counts) > 2 * self.limit or self._size > 2 * MAX_SIGNATURES:
            self._shrink()

    def _shrink(self) -> None:
        """Keep the heaviest, as many as are shown; the others are in `other` from now on."""
        kept: dict[str, int] = {}
        self._size = 0
        for signature, count in self._ranked():
            if len(kept) < self.limit and self._size + len(signature) <= MAX_SIGNATURES:
                kept[signature] = count
                self._size += len(signature)
            else:
                self.other += count
        self.counts = kept

    def _ranked(self) -> list[tuple[str, int]]:
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))

    def reset(self) -> None:
        """Begin at zero again."""
        self.counts.clear()
        self.other = self._size = 0

    def series(self) -> dict[str, int]:
        """Return the values by signature; callers that have no samples are there with 0.

        What has samples comes first: if there is no room for all, callers are left out.
        """
        series: dict[str, int] = {}
        other = self.other
        size = 0
        for signature, count in self._ranked():
            if len(series) >= self.limit or size + len(signature) > MAX_SIGNATURES:
                other += count
                continue
            size += len(signature)
            series[signature] = count
        seen: set[str] = set()
        for signature in list(series):
            caller = signature[: signature.rindex("#")]
            while "#" in caller and caller not in seen:
                seen.add(caller)
                if caller not in series:
                    size += len(caller)
                    if size > MAX_SIGNATURES:
                        break
                    series[caller] = 0
                caller = caller[: caller.rindex("#")]
            if size > MAX_SIGNATURES:
                break
        if other:
            series[self.OTHER] = other
        return series


def _signature(profile: Profile, row: int, is_gc: bool) -> str | None:
    """Return the signature of a stack; None if promfiler hides it."""
    names = [
        _signature_name(frame) for frame in profile.iter_frames(row) if frame.kind in _SCRIPT_KINDS
    ]
    if not names or not Signatures.HIDDEN.isdisjoint(names):
        return None
    names = ["(root)", *reversed(names)]
    if is_gc:
        names.append("(garbage collector)")
    size = 0
    for index, name in enumerate(names):
        size += len(name) + 1
        if size > MAX_SIGNATURE:
            return "#".join([*names[:index], "(truncated)"])
    return "#".join(names)


def _signature_name(frame: Frame) -> str:
    """Return a frame's part of a signature: its name, or its place if it has none."""
    name = clean(frame.original_name or frame.name)
    if not name.strip():
        place = place_of(frame)
        where = file_of(frame) if place else ""
        line = f":{place.line}" if place is not None and place.line is not None else ""
        name = f"(anonymous {where}{line})" if where else "(anonymous)"
    # Panels split on it; private methods begin with it.
    return _label(name).replace("#", "%23")


def _label(text: str) -> str:
    text = clean(text)
    return text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _seconds(time_ns: int) -> float:
    return time_ns / 1e9


class TotalsCollector(Collector):
    """Turns `Totals` into metric families."""

    def __init__(self, totals: Totals, version: str) -> None:
        self._totals = totals
        self._version = version

    def collect(self) -> Iterator[Metric]:
        """Yield the families; see `Collector.collect`."""
        totals = self._totals
        yield _top(
            "jsspy_function_cpu_seconds",
            "CPU time in a function itself; of all but the heaviest functions in 'other'.",
            ("function", "file", "line"),
            totals.functions,
        )
        yield _top(
            "jsspy_package_cpu_seconds",
            "CPU time in the functions of an npm package, of Node.js or of the application.",
            ("package",),
            totals.packages,
        )
        yield _top(
            "jsspy_process_cpu_seconds",
            "CPU time of the JavaScript threads of a process, as sampled.",
            ("pid", "process", *Place._fields),
            totals.processes,
        )
        states = CounterMetricFamily(
            "jsspy_vm_state_seconds", "CPU time by what V8 was doing.", labels=["state"]
        )
        for state in VmState:
            states.add_metric([state.value], _seconds(totals.vm_states.get(state, 0)))
        yield states
        yield from self._health()

    def _health(self) -> Iterator[Metric]:
        """Yield what the sampler says of itself."""
        totals = self._totals
        results = CounterMetricFamily(
            "jsspy_samples", "Samples that were due, by what became of them.", labels=["result"]
        )
        results.add_metric(["stack"], totals.stacks)
        results.add_metric(["truncated"], sum(totals.truncated.values()))
        results.add_metric(["lost"], sum(totals.lost.values()))
        yield results
        lost = CounterMetricFamily(
            "jsspy_lost_samples", "Samples without a stack, by reason.", labels=["reason"]
        )
        for reason in LossReason:
            lost.add_metric([reason.value], totals.lost.get(reason, 0))
        yield lost
        truncated = CounterMetricFamily(
            "jsspy_truncated_samples",
            "Samples whose stack does not reach the root, by reason.",
            labels=["reason"],
        )
        for why in Truncation:
            truncated.add_metric([why.value], totals.truncated.get(why, 0))
        yield truncated
        yield CounterMetricFamily(
            "jsspy_idle_samples", "Times that a thread was found asleep.", value=totals.idle
        )
        yield CounterMetricFamily(
            "jsspy_pauses", "Times that a thread was stopped.", value=totals.pauses
        )
        yield CounterMetricFamily(
            "jsspy_pause_seconds",
            "Time for which threads were stopped.",
            value=_seconds(totals.pause_ns),
        )
        yield GaugeMetricFamily(
            "jsspy_longest_pause_seconds",
            "The longest time that a thread was stopped.",
            value=_seconds(totals.longest_pause_ns),
        )
        yield CounterMetricFamily(
            "jsspy_unreadable_intervals",
            "Recordings by the sampler that could not be read.",
            value=totals.unreadable,
        )
        cpu = CounterMetricFamily(
            "jsspy_own_cpu_seconds", "CPU time that jsspy itself used.", labels=["part"]
        )
        cpu.add_metric(["sampler"], _seconds(totals.sampler_cpu_ns))
        cpu.add_metric(["server"], _seconds(totals.serving_cpu_ns))
        yield cpu
        targets = GaugeMetricFamily(
            "jsspy_targets", "Node.js processes, by whether they are sampled.", labels=["state"]
        )
        targets.add_metric(["sampled"], totals.targets)
        targets.add_metric(["denied"], totals.denied)
        yield targets
        info = GaugeMetricFamily("jsspy_build_info", "Always 1.", labels=["version", "engine"])
        info.add_metric([self._version, totals.engine], 1)
        yield info


def _top(
    name: str,
    text: str,
    labels: tuple[str, ...],
    counters: TopCounters[_Function] | TopCounters[tuple[str]] | TopCounters[_Process],
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, weight in counters.counts.items():
        family.add_metric(key, _seconds(weight))
    family.add_metric(["other", *[""] * (len(labels) - 1)], _seconds(counters.other))
    return family


class SignaturesGauge(NamedTuple):
    """promfiler's metric.

    There are thousands of series, so we write its lines ourselves: in a tenth of the time that
    prometheus_client takes, and the one form that a gauge has in both formats.
    """

    signatures: Signatures
    namespace: str = "promfiler"

    def encode(self) -> Iterator[bytes]:
        """Yield the lines of the gauge: all at once, they would be in memory several times."""
        name = f"{self.namespace}_cpu_profile"
        yield f"# HELP {name} CPU stack trace samples\n# TYPE {name} gauge\n".encode()
        for signature, count in self.signatures.series().items():
            # No line break is in it: `clean` saw to that.
            value = signature.replace("\\", r"\\").replace('"', r"\"")
            yield f'{name}{{signature="{value}"}} {count}.0\n'.encode()


def encode_metrics(
    collectors: list[Collector], accept: str, gauge: SignaturesGauge | None = None
) -> tuple[bytes, str]:
    """Return the metrics in the form that an Accept header asks for, and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    encode, content_type = choose_encoder(accept)
    body = encode(registry)
    if gauge is not None:
        end = _END if body.endswith(_END) else b""
        body = b"".join((body.removesuffix(end), *gauge.encode(), end))
    return body, content_type
