"""Figures beside their budgets."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BUDGET: dict[str, Any] = tomllib.loads((HERE / "budget.toml").read_text(encoding="utf-8"))

failures: list[str] = []


def report(
    name: str, value: float, unit: str, limit: float, *, at_least: bool = False, note: str = ""
) -> None:
    """Print one figure beside its budget."""
    good = value >= limit if at_least else value <= limit
    if not good:
        failures.append(name)
    relation = ">=" if at_least else "<="
    verdict = "ok" if good else "OVER"
    print(f"  {name:44} {value:10.4g} {unit:10} {relation} {limit:g}  {verdict}{note}", flush=True)
