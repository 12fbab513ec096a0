#!/usr/bin/env python3
"""The operator tests that come with onnx, brought to canonical form and with channels removed.

    python benchmarks/operators.py [NAME-PART ...] [--verbose]

prints how many forms give the expected outputs (see tests/operator_forms.py), how many removals equal the
silenced model (see tests/operator_removals.py), how many are wrong or fail, how many models are refused or
let nothing go, and why. Exit code 1 if any is wrong or fails.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from operator_forms import forms
from operator_removals import removals
from operator_suite import OperatorCase


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("names", nargs="*", help="parts of names of cases; default: all cases")
    parser.add_argument("--verbose", action="store_true", help="show every case in which nothing may go")
    options = parser.parse_args()
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")

        def wanted(case: OperatorCase) -> bool:
            return not options.names or any(name in case.name for name in options.names)

        shaped, found = list(forms(wanted)), list(removals(wanted))
    for one in shaped:
        if one.verdict in ("wrong", "failed") or (options.verbose and one.verdict == "refused"):
            print(f"{one.verdict:8} {one.name}: {one.reason}")
    outcomes = Counter(one.verdict for one in shaped)
    print(
        f"{len(shaped)} models: the forms of {outcomes['equal']} give the expected outputs, "
        f"{outcomes['wrong']} wrong ones, {outcomes['failed']} fail; {outcomes['refused']} models refused, "
        f"{outcomes['left out']} that no runtime here runs as expected"
    )
    for one in found:
        if one.verdict in ("wrong", "failed") or (options.verbose and one.verdict in ("refused", "frozen")):
            print(f"{one.verdict:8} {one.name}: {one.reason}")
    counts = Counter(one.verdict for one in found)
    print(
        f"{len({one.name for one in found})} models: {counts['equal']} removals equal, "
        f"{counts['wrong']} wrong, {counts['failed']} failed; {counts['refused']} models refused, "
        f"{counts['frozen']} in which nothing may go, {counts['left out']} without anything to compare"
    )
    for verdict in ("refused", "frozen", "left out"):
        reasons = Counter(one.reason for one in found if one.verdict == verdict)
        for reason, count in reasons.most_common(20):
            print(f"{count:6} {verdict}: {reason}")
    faults = sum(counts[kind] + outcomes[kind] for kind in ("wrong", "failed"))
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
