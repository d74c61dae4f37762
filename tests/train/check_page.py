#!/usr/bin/env python3
"""Checks a report page for compare_report_test.cpp: check_page.py report.html results.csv

Tags balanced, ids unique, every reference to one of them, nothing from elsewhere, no script, headers of tables
with a scope, drawings with a name, and the numbers of the tables equal to those of results.csv. Prints what is
wrong, a line each.
"""
import csv
import html.parser
import re
import sys

VOID = {"meta", "link", "br", "img", "input", "hr", "use", "path", "circle", "rect", "feFlood", "feComposite"}
MAY_LOAD = {"src", "srcset", "href", "data", "action", "poster", "xlink:href", "background"}
MAY_REFER = {"style", "fill", "stroke", "filter", "mask", "clip-path", "marker-start", "marker-mid", "marker-end"}


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.wrong, self.open, self.ids, self.references = [], [], [], []
        self.numbers, self.variant, self.datum, self.styles = {}, None, None, ""

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if len(given) != len(attributes):
            self.wrong.append(f"<{tag}> has an attribute twice: {attributes}")
        if tag in ("script", "iframe", "object", "embed", "base", "form"):
            self.wrong.append(f"there is a <{tag}>")
        if tag == "th" and "scope" not in given:
            self.wrong.append("a header of a table has no scope")
        if tag == "svg" and (given.get("role") != "img" or "aria-labelledby" not in given):
            self.wrong.append("a drawing has no name")
        if "id" in given:
            self.ids.append(given["id"])
        for name, value in attributes:
            value = value or ""
            if name.startswith("on"):
                self.wrong.append(f"<{tag}> has a handler {name}")
            if name in MAY_LOAD and value != "data:,":
                if not value.startswith("#"):
                    self.wrong.append(f"<{tag} {name}={value!r}> comes from elsewhere")
                else:
                    self.references.append(value[1:])
            if name.startswith("aria-labelledby"):
                self.references.extend(value.split())
            if name in MAY_REFER:
                self.references.extend(re.findall(r"url\(#([^)]*)\)", value))
            if name in MAY_REFER and re.search(r"url\((?!#)", value):
                self.wrong.append(f"<{tag} {name}={value!r}> comes from elsewhere")
        if tag == "data":
            self.datum = (given["class"], given["value"])
            if given["class"] == "variant":
                self.variant = given["value"]
            self.numbers.setdefault((self.variant, given["class"]), []).append([given["value"], ""])

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open[-1] != tag:
            self.wrong.append(f"</{tag}> closes {self.open[-1:]}")
        else:
            self.open.pop()
        if tag == "data":
            self.datum = None

    def handle_data(self, text):
        if self.datum:
            self.numbers[(self.variant, self.datum[0])][-1][1] += text
        if self.open and self.open[-1] == "style":
            self.styles += text


# Shown with their unit, in three or four digits; "exact": as results.csv has them.
UNITS = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12, "P": 1e15}


def shown_as(key, value, shown):
    if shown == value:
        return True
    if key == "speed_up":
        return re.fullmatch(r"[≥≤]? ?" + re.escape(value) + "×", shown)
    if key in ("reached", "n"):
        return re.match(re.escape(value) + r" (of \d+|\(\+ \d+ diverged\))$", shown)
    if key == "optimizer_flops_share":
        return shown.endswith(" %") and abs(float(shown[:-2]) / 100 - float(value)) <= 5.5e-5
    if key in ("tokens_to_target", "flops_to_target"):
        number, unit = re.fullmatch(r"([0-9.]+) ?([kMGBTP]?)(?:FLOP)?", shown).groups()
        return abs(float(number) * UNITS[unit] / float(value) - 1) < 0.006
    return False


def read_page(path):
    """The page with, in page.wrong, whatever is wrong with it as a page."""
    text = open(path, encoding="utf-8").read()
    page = Page()
    page.feed(text)
    page.close()
    wrong = page.wrong
    if page.open:
        wrong.append(f"never closed: {page.open}")
    wrong += [f"id {i!r} is there {page.ids.count(i)} times" for i in set(page.ids) if page.ids.count(i) > 1]
    wrong += [f"reference to {r!r}, which is not there" for r in set(page.references) - set(page.ids)]
    if re.search(r"@import|url\(", page.styles):
        wrong.append("the style loads something")
    if re.search(r"https?:|//", re.sub(r"<pre>.*?</pre>", "", text, flags=re.S).replace("data:,", "")):
        wrong.append("there is an address in the page")
    return page


def main(page_path, csv_path):
    page = read_page(page_path)
    wrong = page.wrong
    rows = list(csv.DictReader(open(csv_path, encoding="utf-8", newline="")))
    for row in rows:
        for key in ("final_loss", "difference", "verdict", "speed_up", "n", "tokens_to_target", "seconds_per_step",
                    "state_bytes_per_parameter", "flops_to_target", "best_settings", "standard_error"):
            if row[key] and (row["variant"], key) not in page.numbers:
                wrong.append(f"{row['variant']}: {key} is not in the page")
    for (variant, key), entries in page.numbers.items():
        expected = [r[key] for r in rows if r["variant"] == variant]
        for value, shown in entries:
            if expected != [value]:
                wrong.append(f"{variant}: {key} is {value} in the page, {expected} in results.csv")
            elif not shown_as(key, value, shown):
                wrong.append(f"{variant}: {key} {value} is shown as {shown!r}")
    if not rows:
        wrong.append("results.csv has no rows")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
