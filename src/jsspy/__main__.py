"""Run the command line with `python -m jsspy`."""

from __future__ import annotations

from jsspy.cli.main import main

if __name__ == "__main__":
    main()
