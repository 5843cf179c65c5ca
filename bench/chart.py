"""The chart of the README, drawn from the stored results of `equal_loss.py`: bars of training time, as SVG."""

import statistics
from xml.sax.saxutils import escape

from bench import provenance

WIDTH, LABEL, BAR, GAP, LENGTH = 760, 130, 22, 6, 400

OURS, THEIRS = "#e0662a", "#8c98a4"
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" font-family="sans-serif" \
font-size="14" fill="#333">
<title>{title}</title>
<style>@media (prefers-color-scheme: dark) {{ svg {{ fill: #ddd }} }}</style>"""


def svg(stored):
    """Return the chart: for each training a group of bars, each as long as its time, with the loss it ended at."""
    parts, y = [], 10
    for result in stored["results"]:
        parts.append(text(0, y + 14, result["title"], 16))
        y += 26
        medians = {library: statistics.median(samples) for library, samples in result["seconds"].items()}
        for library, seconds in sorted(medians.items(), key=lambda item: item[1]):
            parts += bar(y, library, seconds / max(medians.values()), f"{seconds:.3g} s", result["losses"][library])
            y += BAR + GAP
        y += 14
    machine, versions = provenance_of(stored)
    parts += [text(0, y + 8, machine, 12), text(0, y + 26, versions, 12)]
    title = "Time to train to the same loss: " + "; ".join(result["title"] for result in stored["results"])
    return "\n".join([HEAD.format(width=WIDTH, height=y + 36, title=escape(title)), *parts, "</svg>"]) + "\n"


def bar(y, library, share, time, loss):
    length, middle, colour = max(2, share * LENGTH), y + BAR - 6, OURS if library == "fastnn" else THEIRS
    return [
        text(0, middle, library),
        f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" rx="3" fill="{colour}"/>',
        text(LABEL + length + 8, middle, f"{time}, loss {loss:.4f}"),
    ]


def text(x, y, content, size=14):
    return f'<text x="{x:.1f}" y="{y}" font-size="{size}">{escape(content)}</text>'


def provenance_of(stored):
    """Where and how it was measured, in two lines."""
    machine = stored["machine"]
    threads, repeats = stored["threads"], stored["repeats"]
    method = f"float32, {threads} threads each unless it says 1, median of {repeats} trainings in turns"
    return (
        " ".join([f"{stored['date']}, {machine['CPU']}: {method}.", *stored["notes"]]),
        provenance.versions(stored, "fastnn", "scikit-learn"),
    )
