#!/usr/bin/env python3
"""Random networks in integers, in every format of onnxruntime's tools, with channels removed.

    python benchmarks/quantized_graphs.py [--cases 1000] [--first 0] [--format NAME-PART] [--verbose]

prints for each format how many removals equal the dense model in which the channels are silenced, bit for bit
or but for the order of sums of fractions, how many networks are left alone or refused and why, and how many
are wrong or fail. Exit code 1 if any is wrong or fails.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from quantized_graphs import FORMATS, VERDICTS, outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--format", default="", help="part of the names of formats; default: all formats")
    parser.add_argument("--verbose", action="store_true", help="show every case that is not equal")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    forms = [name for name in FORMATS if options.format in name]
    counts = {name: Counter[str]() for name in forms}
    reasons, groups, operators = Counter[str](), 0, Counter[str]()
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.first, options.first + options.cases):
            form = forms[seed % len(forms)]
            found = outcome(seed, form, Path(folder))
            counts[form][found.verdict] += 1
            groups += found.groups
            operators.update(found.operators)
            if found.verdict not in ("equal", "rounded"):
                reasons[f"{found.verdict}: {found.reason[:160]}"] += 1
            if found.verdict in ("wrong", "failed") or (options.verbose and found.verdict != "equal"):
                print(f"{seed} {form}: {found.verdict} {found.reason}", flush=True)
    print(f"| format | {' | '.join(VERDICTS)} |")
    print("|---" * (len(VERDICTS) + 1) + "|")
    total = Counter[str]()
    for form, count in counts.items():
        print(f"| {form} | {' | '.join(str(count[verdict]) for verdict in VERDICTS)} |")
        total.update(count)
    print(f"| all | {' | '.join(str(total[verdict]) for verdict in VERDICTS)} |")
    for reason, number in reasons.most_common():
        print(f"{number:6} {reason}")
    print(f"{groups} groups of channels; {time.process_time() - start:.0f} s of CPU time")
    print("operators:", ", ".join(f"{name} {number}" for name, number in operators.most_common()))
    return int(bool(total["wrong"] + total["failed"]))


if __name__ == "__main__":
    sys.exit(main())
