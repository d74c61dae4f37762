#!/usr/bin/env python3
"""Checks a page of the laboratory for lab_page_test.cpp: check_lab_page.py lab.html lab.jsonl

The page as check_page.py does, and that its numbers, their expectations and the verdicts are those of lab.jsonl, in
that order and none left out. Prints what is wrong, a line each.
"""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from check_page import read_page  # noqa: E402


def shown_as(value, shown):
    if isinstance(value, str):
        return value == shown
    return abs(float(shown) - value) <= 5.1e-4 * abs(value)


def compare(wrong, kind, entries, expected):
    got = [value if isinstance(want, str) else float(value) for (value, _), want in zip(entries, expected)]
    if got != expected or len(entries) != len(expected):
        wrong.append(f"{kind}: {[e[0] for e in entries]} in the page, {expected} in lab.jsonl")
    for (_, shown), want in zip(entries, expected):
        if not shown_as(want, shown):
            wrong.append(f"{kind} {want} is shown as {shown!r}")


def main(page_path, lines_path):
    page = read_page(page_path)
    wrong = page.wrong
    claims = [json.loads(line) for line in open(lines_path, encoding="utf-8")]
    measurements, seen = [], set()
    for claim in claims:  # each repeats what its experiment measured
        if claim["id"] not in seen:
            measurements += claim["measurements"]
        seen.add(claim["id"])
    verdicts = [c["verdict"] for c in claims]
    # Once in the table; once more, with its checks, where it was run.
    entries = page.numbers.get((None, "verdict"), [])
    compare(wrong, "verdict", entries[:len(verdicts)], verdicts)
    compare(wrong, "verdict", entries[len(verdicts):], [v for v in verdicts if v != "not run"])
    compare(wrong, "value", page.numbers.get((None, "value"), []), [m["value"] for m in measurements])
    compare(wrong, "spread", page.numbers.get((None, "spread"), []),
            [m["spread"] for m in measurements if m["seeds"] > 1])
    compare(wrong, "expected", page.numbers.get((None, "expected"), []),
            [m["expected"] for m in measurements if m["expected"] is not None])
    if not claims:
        wrong.append("lab.jsonl has no lines")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
