# SPDX-License-Identifier: GPL-2.0-or-later
"""Style rules of the crash report beside the common ones, and the colours of the bar of memory use."""

__all__ = ["STYLE", "USES"]

# Class and title of each part of the bar, in its order; light and dark screens share the colours.
USES = (
    ("anonymous", "programs"),
    ("shared", "shared memory, tmpfs"),
    ("file", "page cache"),
    ("slab", "slab"),
    ("tables", "page tables"),
    ("other", "other"),
    ("free", "free"),
)
_COLOURS = {
    "anonymous": "#b5493b",
    "shared": "#c99418",
    "file": "#404a96",
    "slab": "#209e96",
    "tables": "#785e3c",
    "other": "#8f7aba",
    "free": "#c9ced6",
}

STYLE = """
.panic{font-size:1.25rem;font-weight:600;border-left:5px solid var(--bad);background:var(--card);
padding:.6rem .9rem;margin:.6rem 0}
.panic.none{font-weight:400;border-color:var(--line)}
.badges{margin:.7rem 0}
.unknown{border-left:4px solid #d08c10;background:var(--card);padding:.4rem .8rem}
h4{font-size:.85rem;margin:.8rem 0 .2rem;color:var(--faint)}
h3 .badge{vertical-align:.1em}
ol.trace{margin:.3rem 0 .6rem;padding-left:2.2rem;font-size:.95rem}
ol.trace>li{padding:.05rem .3rem}
ol.trace li::marker{color:var(--faint);font-size:.8em}
ol.trace b{font-weight:600}
.hit{background:var(--mark)}
.at{color:var(--faint);font:.75rem ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;margin-left:.5em}
.registers,.names,.commands,.taints{list-style:none;margin:.2rem 0 .5rem;padding:0}
.registers{display:grid;grid-template-columns:repeat(auto-fill,minmax(13.2rem,1fr));gap:0 1rem;
font:.78rem/1.5 ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace}
.registers i{display:inline-block;width:4.9em;font-style:normal;color:var(--faint)}
.names{display:flex;flex-wrap:wrap;gap:.15rem 1rem;font-size:.9rem}
.path{font-size:.85rem;color:var(--faint)}
.taints li{margin:.2rem 0;padding-left:1rem;text-indent:-1rem}
.commands li{margin:.5rem 0;font-size:.9rem}
.commands code{background:var(--card);padding:.15em .4em}
pre.log{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;background:var(--card);padding:.7rem .8rem;
font:.78rem/1.5 ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace}
mark{background:var(--bad);color:#fff;font-weight:600}
svg.bar{display:block;width:100%;height:1.6rem;margin:.4rem 0 .5rem}
table.tasks td:first-child,.numbers th,.shares td:nth-child(2){white-space:nowrap;overflow-wrap:normal}
td>.badge{justify-self:start}
:root{--mark:#fbe3a6}
@media screen and (max-width:40rem){
.registers{grid-template-columns:1fr 1fr;font-size:.62rem;gap:0 .6rem}
.registers i{width:4.4em}
ol.trace .registers{margin-left:-1rem}
pre.log{font-size:.68rem;padding:.5rem}
.panic{font-size:1.1rem}
.at{display:block;margin-left:0}
}
@media screen and (prefers-color-scheme:dark){:root{--mark:#54430f}}
@media print{pre.log{font-size:7.5pt}.registers{font-size:7pt}svg.bar{break-inside:avoid}h3{break-after:avoid}}
""" + "".join(f".u-{name}{{fill:{colour};background:{colour}}}" for name, colour in _COLOURS.items())
