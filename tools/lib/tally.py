"""Adds up test results: GoogleTest XML files per stage, ctest's JUnit files for what is not a GoogleTest, and extra.tsv.

Prints every failure and every skip with its reason, a line per stage, and last "N passed, N failed, N skipped".
Exit status 1 when anything failed or nothing ran.
"""
import collections
import pathlib
import re
import sys
import xml.etree.ElementTree as ET


# GoogleTest puts "file:line" before a skip's own message.
SOURCE_LINE = re.compile(r"^\S+\.(cc|h):\d+$")


def gtest_results(path):
    """Yields (name, outcome, reason) of one GoogleTest XML file."""
    for case in ET.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        failure, skipped = case.find("failure"), case.find("skipped")
        if failure is not None:
            yield name, "failed", (failure.get("message") or "").strip()
        elif skipped is not None or case.get("result") == "skipped" or case.get("status") == "notrun":
            message = skipped.get("message") if skipped is not None else ""
            text = message or (skipped.text if skipped is not None else "") or "no reason given"
            lines = [line for line in text.strip().splitlines() if line.strip() and not SOURCE_LINE.match(line.strip())]
            yield name, "skipped", (lines[0] if lines else text).strip()
        else:
            yield name, "passed", ""


def main(results):
    rows = []
    for stage in sorted(p for p in results.iterdir() if p.is_dir()):
        programs = set()
        for path in sorted(stage.glob("*.xml")):
            programs.add(path.stem)
            try:
                rows += [(stage.name, *row) for row in gtest_results(path)]
            except ET.ParseError:
                rows.append((stage.name, path.stem, "failed", "ended before it could write its results"))
        junit = stage / "ctest.junit"
        if junit.exists():
            for case in ET.parse(junit).getroot().iter("testcase"):
                name, status = case.get("name"), case.get("status")
                if name in programs:
                    # The program's own cases are counted; a crash after the last case still fails the run.
                    if status == "fail" and not any(r[0] == stage.name and r[2] == "failed" for r in rows):
                        rows.append((stage.name, name, "failed", "the program failed outside its test cases"))
                    continue
                outcome = {"run": "passed", "fail": "failed"}.get(status, "skipped")
                rows.append((stage.name, name, outcome, "" if outcome != "skipped" else f"ctest: {status}"))
    extra = results / "extra.tsv"
    if extra.exists():
        for line in extra.read_text().splitlines():
            stage, name, outcome, reason = (line.split("\t") + [""])[:4]
            rows.append((stage, name, outcome, reason))

    skips = collections.Counter((stage, reason) for stage, _, outcome, reason in rows if outcome == "skipped")
    for (stage, reason), count in sorted(skips.items()):
        names = [name for s, name, outcome, r in rows if outcome == "skipped" and (s, r) == (stage, reason)]
        shown = names[0] if count == 1 else f"{names[0]} and {count - 1} more"
        print(f"skipped  {stage}: {shown}: {reason}")
    for stage, name, outcome, reason in rows:
        if outcome == "failed":
            print(f"FAILED   {stage}: {name}: {reason.splitlines()[0] if reason else ''}")
    by_stage = collections.defaultdict(collections.Counter)
    for stage, _, outcome, _ in rows:
        by_stage[stage][outcome] += 1
    for stage, counts in by_stage.items():
        print(f"{stage:8} {counts['passed']:6} passed {counts['failed']:4} failed {counts['skipped']:4} skipped")
    total = collections.Counter(outcome for _, _, outcome, _ in rows)
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 1 if total["failed"] or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
