"""The table of model types whose masks were proved, at the end of the run."""

import re
from collections import defaultdict

NODE = re.compile(r"test_masks_are_what_gradients_say\[(.+)-(\w+)\]$")


def pytest_terminal_summary(terminalreporter):
    table = defaultdict(dict)
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            node = NODE.search(getattr(report, "nodeid", ""))
            if node and (outcome != "passed" or report.when == "call"):
                heads = dict(report.user_properties).get("heads")
                cell = {"passed": "no heads" if heads == 0 else "right", "skipped": ""}.get(outcome, "WRONG")
                table[node[1]][node[2]] = cell
    if len(table) < 2:
        return
    variants = list(dict.fromkeys(variant for row in table.values() for variant in row))
    write = terminalreporter.write_line
    terminalreporter.section("weight restrictions proved by gradients")
    write(f"{'model type':<26}" + "".join(f"{variant:<11}" for variant in variants))
    for model_type, row in sorted(table.items()):
        write(f"{model_type:<26}" + "".join(f"{row.get(variant, ''):<11}" for variant in variants))
    counts = defaultdict(int)
    for row in table.values():
        for cell in row.values():
            counts[cell] += 1
    write(
        f"{len(table)} model types; variants: " + ", ".join(f"{n} {cell}" for cell, n in sorted(counts.items()) if cell)
    )
