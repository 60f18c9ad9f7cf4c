"""``python -m tests.benchmarks.launchers.matrix``: every cell of frameworks × platforms × models × nodes × roles ×
drafting, written and held against data, or refused with its reason; the counts."""

from __future__ import annotations

from collections import Counter

from planner.exports.registry import exported, names_for
from planner.launchers import launchers
from profiles.errors import Unsupported
from tests.planner.exports.made import asked, matrix


def main() -> int:
    written: Counter[tuple[str, str]] = Counter()
    reasons: Counter[tuple[str, str, str]] = Counter()
    cells = {framework: matrix(framework) for framework in launchers()}
    for framework, plans in cells.items():
        for target in names_for("serving"):
            for _, plan in plans:
                try:
                    exported(target, asked(plan))
                    written[framework, target] += 1
                except Unsupported as error:
                    reasons[framework, target, error.message.partition(": ")[2]] += 1
    total = sum(len(plans) for plans in cells.values()) * len(names_for("serving"))
    print(f"{'target':<12}" + "".join(f"{framework:>10}" for framework in cells))
    for target in names_for("serving"):
        print(f"{target:<12}" + "".join(f"{written[f, target]:>6}/{len(cells[f]):<3}" for f in cells))
    print(f"{sum(written.values())} of {total} cells written and validated, {sum(reasons.values())} refused:")
    for (framework, target, reason), count in sorted(reasons.items()):
        print(f"  {count:>3} {target} × {framework}: {reason}")
    return 0 if sum(written.values()) + sum(reasons.values()) == total else 1


if __name__ == "__main__":
    raise SystemExit(main())
