"""Medians, ratios and the printed table."""
import statistics


def summary(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "samples": len(values)}


def ratio(ours, theirs):
    return ours / theirs if theirs else None


def compare(cases, engines, rates, fractions, base):
    """One row a case. engines: names, ours first; rates: {engine: {case: [tok/s]}}; fractions: {case: (read, int8)};
    base: the peer that everything is held against."""
    rows = []
    for case in cases:
        cells = {e: summary(rates[e][case]) for e in engines if rates.get(e, {}).get(case)}
        ours = cells.get(engines[0])
        peers = {e: c["median"] for e, c in cells.items() if e != engines[0]}
        best = max(peers, key=peers.get) if peers else None
        row = {"case": case, "engines": cells, "best_peer": best}
        if ours:
            row["ratio_to_base"] = ratio(ours["median"], peers.get(base))
            row["ratio_to_best"] = ratio(ours["median"], peers.get(best))
        if case in fractions:
            row["read_fraction"], row["int8_fraction"] = fractions[case]
        rows.append(row)
    return rows


def _times(value):
    return "-" if value is None else f"{value:.2f}x"


def _percent(value):
    return "-" if value is None else f"{100 * value:.0f} %"


def _number(value):
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def cell(s):
    return "-" if s is None else f"{_number(s['median'])} ({_number(s['min'])}-{_number(s['max'])})"


def markdown(header, rows):
    """A table in Markdown whose columns also line up as plain text."""
    widths = [max(len(str(r[i])) for r in [header, *rows]) for i in range(len(header))]
    line = lambda r: "| " + " | ".join(str(v).ljust(w) for v, w in zip(r, widths)) + " |"
    return "\n".join([line(header), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *map(line, rows)]) + "\n"


def engine_table(rows, engines, base):
    header = ["tok/s, median (min-max)", *engines, f"ours / {base}", "ours / best peer", "of read bandwidth", "of int8 peak"]
    body = []
    for r in rows:
        best = f"{_times(r.get('ratio_to_best'))} {r['best_peer'] or ''}".strip()
        body.append([r["case"], *[cell(r["engines"].get(e)) for e in engines], _times(r.get("ratio_to_base")), best,
                     _percent(r.get("read_fraction")), _percent(r.get("int8_fraction"))])
    return markdown(header, body)
