# SPDX-License-Identifier: GPL-2.0-or-later
"""The style sheet of the HTML report: narrow and wide screens, light and dark, paper."""

__all__ = ["STYLE"]

STYLE = """
:root{--paper:#fff;--ink:#1d2128;--faint:#5c6470;--line:#d5d9df;--card:#f5f6f8;--hole:#fafaf7;
--bad:#b3121d;--doubt:#8a5a00;--good:#1b6e36;--link:#0b57a8}
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:1rem;background:var(--paper);color:var(--ink);
font:16px/1.45 system-ui,-apple-system,"Segoe UI","DejaVu Sans",Arial,sans-serif;overflow-wrap:anywhere;
-webkit-text-size-adjust:100%}
h1{font-size:1.3rem;margin:0}
h2{font-size:1.2rem;margin:0 0 .5rem;padding-top:1rem;border-top:2px solid var(--line)}
h3{font-size:1rem;margin:1.4rem 0 .4rem}
p{margin:.2rem 0}
a{color:var(--link)}
code{font:.9em ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace}
header .faint{margin-bottom:1rem}
.faint{color:var(--faint)}
p.faint,.findings .faint{font-size:.875rem}
section{margin-bottom:2rem}
.badge{display:inline-block;padding:.05em .5em;border-radius:.3em;border:1px solid currentColor;font-size:.8em;
font-weight:600;white-space:nowrap}
.badge.bad{background:var(--bad);border-color:var(--bad);color:#fff}
.badge.doubt{color:var(--doubt)}.badge.good{color:var(--good)}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(13rem,1fr));gap:.5rem 1.5rem;margin:.5rem 0}
dl>div:first-child,dl>div:last-child{grid-column:1/-1}
dt{color:var(--faint);font-size:.8rem}
dd{margin:0}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th{text-align:left;color:var(--faint);font-weight:600;font-size:.8rem}
th,td{padding:.25rem .8rem .25rem 0;border-bottom:1px solid var(--line);vertical-align:top}
.numbers td:first-child,.numbers th:first-child{text-align:right;width:6.5rem;white-space:nowrap}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));column-gap:2.5rem}
.findings{list-style:none;margin:0;padding:0}
.findings li{border-left:4px solid var(--line);background:var(--card);padding:.5rem .8rem;margin:0 0 .5rem}
.findings .bad{border-color:var(--bad)}.findings .doubt{border-color:#d08c10}
.findings li>p{color:var(--ink)}.findings li>p.faint{color:var(--faint)}
.legend{list-style:none;margin:0 0 .7rem;padding:0;display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;font-size:.85rem}
.legend i{display:inline-block;width:.85em;height:.85em;margin-right:.45em;border:1px solid var(--faint);
vertical-align:-.05em}
.k-hole{background:var(--hole)}
.band{display:grid;grid-template-columns:6.6rem 1fr;column-gap:.5rem;margin-bottom:.4rem;break-inside:avoid}
.ticks{position:relative;font:.7rem/1 ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;color:var(--faint);
text-align:right}
.ticks span{position:absolute;right:0;white-space:nowrap;overflow-wrap:normal;border-top:1px solid var(--line);
padding-top:1px}
.band svg{display:block;width:100%;height:100%;min-width:0;background:var(--paper)}
.gap{margin:.1rem 0 .5rem 7.1rem;font-size:.75rem;color:var(--faint)}
@media screen and (max-width:40rem){
body{padding:.8rem}
dl{grid-template-columns:1fr 1fr}
table:not(.numbers) thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
table:not(.numbers) tr{display:block;border-bottom:1px solid var(--line);padding:.4rem 0}
table:not(.numbers) td{display:grid;grid-template-columns:6rem 1fr;border:0;padding:.05rem 0}
table:not(.numbers) td::before{content:attr(data-head);color:var(--faint);font-size:.8rem}
.band{grid-template-columns:5.2rem 1fr}.gap{margin-left:5.7rem}
.ticks{font-size:.62rem}
}
@media screen and (prefers-color-scheme:dark){
:root{--paper:#111418;--ink:#e4e7ec;--faint:#9aa3b0;--line:#333a44;--card:#1a1e24;--hole:#181b20;
--bad:#d03a44;--doubt:#e0a83a;--good:#62c684;--link:#7db7f5}
}
@media print{
body{max-width:none;padding:0;font-size:10pt}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
h2,h3{break-after:avoid}.findings li,tr{break-inside:avoid}
a{color:inherit;text-decoration:none}
}
"""
