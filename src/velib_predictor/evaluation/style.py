"""Colours and type of the report's page, for light and for dark screens."""

import re

MODEL_COLOURS = 7
"""The first is persistence's; models beyond the last begin again at the second, dashed."""
_INK, _GRID = 0xF0, 0xF1
_STANDS_FOR_A_COLOUR = re.compile(r"#0d0e([0-9a-f]{2})")
WORSE, EVEN, BETTER = "#c8500a", "#a8a8a8", "#1a6fd0"
"""Ends and middle of the map's colours: told apart on white and on black, and by the colour-blind."""

CSS = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c1e21;--soft:#5a6069;--grid:#d9dce0;--stripe:#f4f5f7;
--m0:#80868e;--m1:#0067b0;--m2:#cf4f00;--m3:#00855f;--m4:#a8428a;--m5:#8a6a00;--m6:#2a9fc4}
@media (prefers-color-scheme:dark){:root{--paper:#16181b;--ink:#e6e8ea;--soft:#a0a7b0;--grid:#3a3f45;--stripe:#1f2226;
--m0:#9aa1a9;--m1:#5aaef2;--m2:#ff8a4c;--m3:#3fce9f;--m4:#ee93cf;--m5:#e0b93a;--m6:#7fd6ee}}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,"Segoe UI",Roboto,Arial,sans-serif}
main{max-width:1160px;margin:0 auto;padding:24px 20px 60px}
h1{font-size:28px;margin:0 0 8px}h2{font-size:21px;margin:40px 0 8px;padding-top:12px;border-top:2px solid var(--grid)}
h3{font-size:17px;margin:28px 0 4px}p{max-width:80ch;margin:4px 0 12px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 18px;margin:12px 0}dt{color:var(--soft)}dd{margin:0}
dl.words{max-width:95ch}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:4px 8px;text-align:right;vertical-align:top;white-space:nowrap}th{font-weight:500;text-align:left}
thead th{color:var(--soft);vertical-align:bottom;border-bottom:1px solid var(--ink)}
.scores thead th{white-space:normal;min-width:46px}.scores thead th:nth-child(n+3){text-align:right}
.differences thead th:nth-child(n+3){text-align:right}
tbody{border-bottom:1px solid var(--grid)}tbody tr:nth-child(even)>:not([rowspan]){background:var(--stripe)}
.fits td{text-align:left}
td small{display:block;color:var(--soft);font-size:11px}pre{text-align:left;white-space:pre-wrap;max-width:60ch}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr));gap:14px 20px}
.wide{max-width:820px}figure{margin:0}figcaption{font-size:13px;font-weight:600;margin-bottom:2px}
figure svg{display:block;width:100%;height:auto}figure svg text{font-family:inherit!important}
.legend{display:flex;flex-wrap:wrap;gap:4px 20px;list-style:none;padding:0;margin:0 0 8px;font-size:13px}
.legend svg{width:26px;height:8px;margin-right:6px;vertical-align:middle}.legend path{stroke-width:2.5}
@media print{main{max-width:none}section,figure{break-inside:avoid}}
"""


def colour_of(place: int) -> str:
    """A model's colour in the page."""
    return f"var(--m{_slot(place)})"


def dash_of(place: int) -> str:
    """A model's dashes as SVG has them."""
    return "none" if place < MODEL_COLOURS else "5 3"


def mark(place: int) -> str:
    """What stands for a model's colour in a figure until `coloured` knows it: matplotlib wants a number."""
    return f"#0d0e{_slot(place):02x}"


INK, GRID = f"#0d0e{_INK:02x}", f"#0d0e{_GRID:02x}"
"""What stands for the colours of text and of grid lines."""


def coloured(svg: str) -> str:
    """The figure with the page's colours, which follow the reader's choice of light or dark."""

    def named(match: re.Match[str]) -> str:
        slot = int(match[1], 16)
        return {_INK: "var(--ink)", _GRID: "var(--grid)"}.get(slot, f"var(--m{slot})")

    return _STANDS_FOR_A_COLOUR.sub(named, svg)


def _slot(place: int) -> int:
    return place if place < MODEL_COLOURS else 1 + (place - 1) % (MODEL_COLOURS - 1)
