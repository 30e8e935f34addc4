"""Sample a process while asked to: `python bench/sampler.py ENGINE HZ PID`.

Each byte on standard input turns sampling on or off again, and is answered with a line, as is that
all is set up: how many samples have been taken and named so far, and how many ns of the target's
time they took, as far as the engine knows.
"""

from __future__ import annotations

import gc
import os
import select
import sys

from jsspy.engines import ENGINES
from jsspy.recorder import Recorder
from jsspy.v8.isolates import find_threads
from jsspy.v8.metadata import load_layout
from jsspy.v8.plan import make_plan


def main() -> None:
    """Answer to standard input."""
    engine = ENGINES[sys.argv[1]](float(sys.argv[2]))
    with Recorder(engine) as recorder:
        target = recorder.add(int(sys.argv[3]))
        v8 = target.find_v8()
        assert v8 is not None
        layout = load_layout(v8.elf)
        plan, threads = make_plan(layout), find_threads(target, v8, layout)
        statuses = recorder.run()
        next(statuses)
        # A clock without threads: the recording stands still, with all that it has learnt.
        engine.remove_target(target.pid)
        gc.freeze()

        def answer() -> None:
            print(len(recorder.profile), engine.cost_ns(), flush=True)

        answer()
        while os.read(0, 1):
            engine.set_target(target, plan, threads)
            answer()
            while not select.select([0], [], [], 0)[0]:
                next(statuses)
            if not os.read(0, 1):
                break
            engine.remove_target(target.pid)
            answer()


if __name__ == "__main__":
    main()
