#!/usr/bin/env python3
"""Writes the diagrams of the book to docs/src/diagrams, with the standard library alone.

    docs/diagrams/make.py            # writes them
    docs/diagrams/make.py --check    # fails if one of them is not what this script writes

The layers come from the list in docs/src/development/architecture.md, which a test compares with the imports of the code.
"""

import re
import sys
from html import escape
from pathlib import Path

BOOK = Path(__file__).resolve().parent.parent / "src"
OUT = BOOK / "diagrams"

# A page's theme does not reach into an image, so each image has a background of its own.
STYLE = """
.page { fill: #ffffff; stroke: #d0d7de; }
.box { fill: #eef4fb; stroke: #4a7ab5; stroke-width: 1.5; }
.good { fill: #e9f6ec; stroke: #3a8a4d; stroke-width: 1.5; }
.bad { fill: #fdecea; stroke: #b5483f; stroke-width: 1.5; }
.zone { fill: none; stroke: #8b949e; stroke-width: 1.5; stroke-dasharray: 6 4; }
.line { fill: none; stroke: #57606a; stroke-width: 1.5; }
.head { fill: #57606a; }
text { font-family: system-ui, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 14px; fill: #1f2328; }
.strong { font-weight: 600; font-size: 16px; }
.small { font-size: 12.5px; fill: #57606a; }
.code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 13px; }
@media (prefers-color-scheme: dark) {
  .page { fill: #161b22; stroke: #30363d; }
  .box { fill: #1c2b3f; stroke: #6ca0dc; }
  .good { fill: #17301d; stroke: #56b06c; }
  .bad { fill: #3a1d1b; stroke: #e0746a; }
  .zone { stroke: #8b949e; }
  .line { stroke: #9aa4af; }
  .head { fill: #9aa4af; }
  text { fill: #e6edf3; }
  .small { fill: #9aa4af; }
}
"""


class Picture:
    """An image under construction."""

    def __init__(self, width, height, title, text):
        self.width, self.height, self.title, self.about = width, height, title, text
        self.parts = []

    def rect(self, x, y, width, height, kind="box"):
        self.parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>')

    def text(self, x, y, text, kind="", anchor="middle"):
        of = f' class="{kind}"' if kind else ""
        self.parts.append(f'<text{of} x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>')

    def lines(self, x, y, texts, kind="small", anchor="middle", step=17):
        for index, text in enumerate(texts):
            self.text(x, y + index * step, text, kind, anchor)

    def arrow(self, *points, label=None, above=8):
        path = " ".join(f"{'ML'[index > 0]} {x} {y}" for index, (x, y) in enumerate(points))
        self.parts.append(f'<path class="line" d="{path}" marker-end="url(#head)"/>')
        if label:
            (ax, ay), (bx, by) = points[0], points[1]
            self.text((ax + bx) / 2, (ay + by) / 2 - above, label, "small")

    def svg(self):
        body = "\n".join(self.parts)
        return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" role="img" aria-labelledby="title about">
<title id="title">{escape(self.title)}</title>
<desc id="about">{escape(self.about)}</desc>
<style>{STYLE}</style>
<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto-start-reverse"><path class="head" d="M 0 0 L 10 5 L 0 10 z"/></marker></defs>
<rect class="page" x="0.5" y="0.5" width="{self.width - 1}" height="{self.height - 1}" rx="10"/>
{body}
</svg>
"""


def flow():
    stages = [
        ("source", ["git, HTTP,", "a directory"]),
        ("trust", ["signatures, serial,", "expiry, digests"]),
        ("resolve", ["roles, variables,", "facts, secrets"]),
        ("plan", ["observe, compare,", "diff"]),
        ("apply", ["change, restart,", "run probes"]),
    ]
    types = ["bytes", "Release", "Catalog", "Plan"]
    picture = Picture(980, 300, "The flow of a run", "Bytes from a source become a release, a catalog, a plan and a generation.")
    width, gap, top = 132, 66, 84
    left = [28 + index * (width + gap) for index in range(len(stages))]
    picture.rect(left[0] - 12, 36, width + 24, 186, "zone")
    picture.text(left[0] + width / 2, 58, "unprivileged process", "small")
    picture.rect(left[1] - 12, 36, left[4] + width - left[1] + 24, 186, "zone")
    picture.text((left[1] + left[4] + width) / 2, 58, "root on the host", "small")
    for x, (name, about) in zip(left, stages):
        picture.rect(x, top, width, 108)
        picture.text(x + width / 2, top + 34, name, "strong")
        picture.lines(x + width / 2, top + 64, about)
    for index, name in enumerate(types):
        picture.arrow((left[index] + width, top + 54), (left[index + 1], top + 54), label=name)
    end = left[4] + width / 2
    picture.arrow((end, top + 108), (end, 244))
    picture.text(end, 264, "Generation", "strong")
    picture.text(end, 283, "recorded, kept for rollback", "small")
    picture.lines(left[0] + width / 2, 244, ["Root reads directories", "and git over ssh."])
    trust = left[1] + width / 2
    picture.arrow((trust, top + 108), (trust, 244))
    picture.text(trust, 264, "refused", "strong")
    picture.text(trust, 283, "exit code 4, nothing is changed", "small")
    return picture


def layers():
    page = (BOOK / "development/architecture.md").read_text()
    block = re.search(r"## Layers\n.*?```text\n(.*?)```", page, re.S).group(1)
    rows = []
    for line in block.splitlines():
        rooms, about = re.split(r"\s{2,}", line.strip(), maxsplit=1)
        rooms = rooms.split()
        rows.append((rooms, about if len(rooms) > 1 else re.split(r"[;:]", about)[0]))
    step, top = 34, 62
    picture = Picture(980, top + step * len(rows) + 26, "The layers of the code", "Each room imports only from rooms below its own.")
    picture.text(28, 36, "A file imports only from rooms below its own.", "small", "start")
    for index, (rooms, about) in enumerate(rows):
        y = top + index * step
        width = (330 - 8 * (len(rooms) - 1)) / len(rooms)
        for number, room in enumerate(rooms):
            x = 70 + number * (width + 8)
            picture.rect(x, y, width, step - 6)
            picture.text(x + width / 2, y + 19, room, "code")
        picture.text(420, y + 19, about, "small", "start")
    picture.arrow((44, top + 4), (44, top + step * len(rows) - 10))
    return picture


def rollout():
    picture = Picture(980, 404, "A rollout", "Hosts apply a release in waves; if one fails, it rolls back and no other host applies the release.")
    waves = [
        ("wave 1", "the canary", ["node1"]),
        ("wave 2", "25 % of the nodes", ["node2", "node3", "node4"]),
        ("last wave", "all other hosts", ["node5", "node6", "…"]),
    ]

    def row(top, states, headings):
        for index, ((name, about, hosts), state) in enumerate(zip(waves, states)):
            x = 28 + index * 322
            picture.rect(x, top, 280, 118, "zone")
            picture.text(x + 14, top + 25, name if headings else "", "strong", "start")
            picture.text(x + 266, top + 25, about if headings else "", "small", "end")
            for number, host in enumerate(hosts):
                kind, word = state[min(number, len(state) - 1)]
                picture.rect(x + 12 + number * 87, top + 40, 82, 62, kind)
                picture.text(x + 53 + number * 87, top + 66, host)
                picture.text(x + 53 + number * 87, top + 88, word, "small")
            if index:
                yield x, top + 70

    good, bad, old = ("good", "release 8"), ("bad", "back on 7"), ("box", "release 7")
    picture.text(28, 32, "Every wave is healthy for its soak time, then the next one begins:", "", "start")
    for x, y in row(48, [[good], [good], [good]], True):
        picture.arrow((x - 42, y), (x, y), label="soak", above=10)
    picture.text(28, 206, "A host fails: it rolls back automatically, and no other host applies the release:", "", "start")
    for x, y in row(222, [[good], [bad, old, old], [old]], True):
        picture.arrow((x - 42, y), (x, y)) if x < 400 else picture.text(x - 21, y + 6, "✕", "strong")
    picture.text(28, 376, "Each host decides for itself, by the signed status records of the hosts before it.", "small", "start")
    return picture


def main():
    stale = []
    for name, make in {"flow": flow, "layers": layers, "rollout": rollout}.items():
        path, svg = OUT / f"{name}.svg", make().svg()
        if "--check" in sys.argv:
            stale += [path.name] if not path.exists() or path.read_text() != svg else []
        else:
            OUT.mkdir(exist_ok=True)
            path.write_text(svg)
    if stale:
        sys.exit(f"run docs/diagrams/make.py: {', '.join(stale)}")


main()
