"""Damaged models, archives, arrays, images and command lines by the thousand: none may do harm.

Each case is one call of the command line in a process that serves many of them, with 2 GB of memory over what
it started with. Counted are exit codes, and what must never be: a traceback or an internal error, a case that
takes longer than a minute, a process that dies, and memory that runs out.

    python benchmarks/damaged.py --cases 20000 --seed 0 [--first CASE] [--show]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from damage import case

import obs_onnx.entrypoints.prune
import obs_onnx.entrypoints.score  # noqa: F401 - before processes are forked
from obs_onnx.cli import main

BATCH, SECONDS, BYTES = 200, 60, 2 << 30
MEMORY = ("MemoryError", "bad_alloc", "Unable to allocate", "cannot allocate")
REFUSED = "Failed to allocate"  # a runtime says so before it takes anything


def run(number: int, show: bool) -> dict[str, object]:
    """What a case comes to."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        one = case(number, Path(folder))
        start = time.perf_counter()
        result = CliRunner().invoke(main, one.arguments)
        text = result.stderr.strip()
        os.chdir("/")
    kind = f"exit {result.exit_code}"
    if any(word in text for word in MEMORY) and REFUSED not in text:
        kind = "over memory"
    elif result.exception is not None and not isinstance(result.exception, SystemExit):
        kind, text = "traceback", f"{text} {result.exception!r}"
    elif "internal error" in text:
        kind = "traceback"
    elif result.exit_code == 2 and len(text.splitlines()) > 1:
        kind = "several lines"
    elif not (text + result.stdout).replace("\n", "").isprintable():
        kind = "control characters"
    if show:
        print(" ".join(one.arguments)[:300], "|", text, file=sys.stderr)
    return {
        "case": number,
        "of": one.kind,
        "command": one.arguments[0],
        "kind": kind,
        "text": text[-400:],
        "seconds": time.perf_counter() - start,
    }


def serve(first: int, last: int, output: int, show: bool) -> None:
    """Run cases in this process, one line of JSON for each."""
    warnings.simplefilter("ignore")
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + BYTES, held + BYTES))
    with os.fdopen(output, "w") as lines:
        for number in range(first, last):
            lines.write(json.dumps(run(number, show)) + "\n")
            lines.flush()


def served(first: int, last: int, show: bool) -> list[dict[str, object]]:
    """Results of cases in a child; where it hangs or dies, of those before and of that one."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2) if not show else None
        try:
            serve(first, last, write, show)
        finally:
            os._exit(0)
    os.close(write)
    found: list[dict[str, object]] = []
    buffer, why = b"", "crash"
    while True:
        if not select.select([read], [], [], SECONDS)[0]:
            os.kill(child, signal.SIGKILL)
            why = "hang"
            break
        part = os.read(read, 1 << 16)
        if not part:
            break
        buffer += part
        *lines, buffer = buffer.split(b"\n")
        found += map(json.loads, lines)
    os.close(read)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if len(found) < last - first:
        text = f"signal {-status}" if status < 0 else f"exit {status}"
        found.append(
            {"case": first + len(found), "of": "?", "command": "?", "kind": why, "text": text, "seconds": 0}
        )
    return found


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="cases of different seeds are different ones")
    parser.add_argument("--first", type=int, help="number of the first case, in place of a seed")
    parser.add_argument("--show", action="store_true", help="print command and message of every case")
    return parser.parse_args()


def report(options: argparse.Namespace) -> int:
    """Run all cases, print what is wrong as it is found, and the counts."""
    first = options.seed * 10_000_000 if options.first is None else options.first
    last, counts, slowest = first + options.cases, Counter[str](), 0.0
    of: Counter[tuple[str, str]] = Counter()
    while first < last:
        for one in served(first, min(first + BATCH, last), options.show):
            first = int(str(one["case"])) + 1
            kind = str(one["kind"])
            counts[kind] += 1
            of[str(one["of"]), kind] += 1
            slowest = max(slowest, float(str(one["seconds"])))
            if kind not in ("exit 0", "exit 2", "exit 3"):
                print(
                    f"{kind}: case {one['case']} ({one['of']}, {one['command']}): {one['text']}", flush=True
                )
    for (what, kind), count in sorted(of.items()):
        print(f"  {what:20} {kind:20} {count}")
    wrong = sum(count for kind, count in counts.items() if kind not in ("exit 0", "exit 2", "exit 3"))
    print(
        f"cases {counts.total()}, " + ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
    )
    print(
        f"tracebacks {counts['traceback']}, hangs {counts['hang']}, crashes {counts['crash']}, "
        f"over memory {counts['over memory']}, wrong in all {wrong}, slowest {slowest:.1f} s"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(report(parsed()))
