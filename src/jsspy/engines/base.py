"""What a sampling engine is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import ClassVar, Protocol, Self, runtime_checkable

from jsspy.engines.pace import Pace
from jsspy.model.capture import CapturePlan, StoppedReader, ThreadPlan
from jsspy.model.mode import Mode
from jsspy.model.profile import PauseStats
from jsspy.model.sample import LossReason, RawSample
from jsspy.model.units import Pid
from jsspy.target.process import Target


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether an engine can run here, and if not, why and what mends it."""

    available: bool
    reason: str = ""
    hint: str | None = None


@dataclass(slots=True)
class EngineStats:
    """An engine's own account; it only grows while the engine runs."""

    requested: int = 0
    """Samples that were due of threads that ran: delivered + lost."""
    idle: int = 0
    """Samples left out because the thread slept; 0 where sleeping threads are sampled."""
    lost: dict[LossReason, int] = field(default_factory=dict)

    def lose(self, reason: LossReason, count: int = 1) -> None:
        """Count samples that were due and have no capture."""
        self.lost[reason] = self.lost.get(reason, 0) + count


@runtime_checkable
class StoppingEngine(Protocol):
    """An engine that can let somebody read while a thread stands still."""

    def set_reader(self, pid: Pid, reader: StoppedReader) -> None:
        """Call `reader` for each sample of a target that is taken from now on."""
        ...


@runtime_checkable
class CountingEngine(Protocol):
    """An engine that can count equal stacks where it takes them, instead of handing out each."""

    def count_stacks(self) -> None:
        """Hand out a stack when it is met and, once a second, the weight of all that equal it.

        To be called before the first target is set. What was counted of one stack is one sample.
        """
        ...


class Engine(ABC):
    """Copies stacks out of one or more targets at a steady rate. Used inside `with engine:`.

    Attributes:
        mode: What it measures.
        stats: Its account.
    """

    name: ClassVar[str]
    modes: ClassVar[frozenset[Mode]]
    """What it can measure."""

    def __init__(self, rate_hz: float, *, mode: Mode = Mode.CPU) -> None:
        """Prepare to take so many samples per second of each thread, in one of `modes`."""
        self.mode = mode
        self.stats = EngineStats()
        self._pace = Pace(rate_hz)

    @property
    def period_ns(self) -> int:
        """Between two samples of a thread, now."""
        return self._pace.period_ns

    def set_rate(self, rate_hz: float) -> None:
        """Take so many samples per second from now on; each weighs the period of its moment."""
        self._pace.set_rate(rate_hz)

    @abstractmethod
    def probe(self, target: Target) -> Availability:
        """Say whether this engine can sample `target`, by trying; never raises for "no"."""

    @abstractmethod
    def set_target(
        self, target: Target, plan: CapturePlan | None, threads: Sequence[ThreadPlan]
    ) -> None:
        """Add a target, or replace the plan and threads that are sampled of it.

        `plan` is None where nothing of V8 is known: registers and stack are still copied.

        Raises:
            EngineUnavailable: Its threads cannot be sampled.
        """

    @abstractmethod
    def remove_target(self, pid: Pid) -> None:
        """Stop sampling a target."""

    @abstractmethod
    def samples(self) -> Iterator[list[RawSample]]:
        """Yield what was captured, in time order: an empty list at least 4 times a second.

        The iterator ends when no target is left. Closing it leaves every target running.
        """

    def pauses(self) -> PauseStats:
        """Return how long threads were stopped so far."""
        return PauseStats()

    def cost_ns(self) -> int:
        """Return how much of the targets' time sampling has taken so far, as far as is known."""
        return self.pauses().total_ns

    @abstractmethod
    def close(self) -> None:
        """Give back everything, and leave every target running. May be called again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
