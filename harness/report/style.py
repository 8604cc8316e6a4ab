"""How the page looks: light and dark, from a phone's width to a desktop's. Nothing is loaded from elsewhere."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f4f6f8; --surface: #ffffff; --sunk: #eef1f5; --line: #d3dae2;
  --text: #1b2430; --muted: #52606f; --link: #0b57a4; --bad: #b3261e; --good: #1a6b3a; --bar: #4b7bab;
  --h0: #f1f5f9; --h1: #dbe6f1; --h2: #bed3e7; --h3: #fdc57f; --h4: #f08a3e; --h5: #c93a1d; --h6: #7a0b12;
  --h7: #3d1152; --h7-line: #e7b7f2;
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1318; --surface: #171d25; --sunk: #1f2731; --line: #34404e;
    --text: #e5e9ef; --muted: #a0adbb; --link: #85bdf7; --bad: #ff9384; --good: #74d49a; --bar: #6c9fd0;
    --h0: #1a232d; --h1: #223346; --h2: #2d4a67; --h3: #7d4312; --h4: #c2661a; --h5: #f59b45; --h6: #ffdca6;
    --h7: #f3c9ff; --h7-line: #6b1f8a;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main, header, footer { max-width: 74rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 2rem; }
footer { padding-top: 2rem; padding-bottom: 3rem; color: var(--muted); font-size: .875rem; }
h1, h2, h3, h4 { line-height: 1.25; margin: 0; overflow-wrap: anywhere; text-wrap: balance; }
h1 { font-size: 1.75rem; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; margin-top: 2.5rem; }
h3 { font-size: 1.1rem; margin-top: 2.25rem; }
h4 { font-size: 1rem; }
p { margin: .5rem 0; max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--link); text-underline-offset: .15em; }
a:focus-visible, summary:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; border-radius: 3px; }
.muted { color: var(--muted); }
.bad { color: var(--bad); } .good { color: var(--good); }
.skip { position: absolute; left: -100rem; }
.skip:focus { left: 1rem; top: .5rem; }
code, .facts dd, .case { font-family: var(--mono); font-size: .8125rem; overflow-wrap: anywhere; }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.tiles > div { background: var(--surface); border: 1px solid var(--line); border-radius: 8px; padding: .65rem .85rem; }
.tiles dt { color: var(--muted); font-size: .8125rem; }
.tiles dd { margin: 0; font-size: 1.375rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }

.card { background: var(--surface); border: 1px solid var(--line); border-radius: 8px; padding: 1rem; margin: 1rem 0; }
.index { margin: .75rem 0; padding: 0; list-style: none; border-top: 1px solid var(--line); }
.index li { border-bottom: 1px solid var(--line); padding: .4rem 0; display: flex; flex-wrap: wrap; gap: 0 .75rem; }
.index .muted { font-size: .875rem; overflow-wrap: anywhere; min-width: 0; }

summary { cursor: pointer; overflow-wrap: anywhere; }
summary .muted { font-size: .875rem; }
.failure:not(:has(details[open])) { margin: .4rem 0; padding: .5rem 1rem; }
summary h4 { display: inline; }
.failure { scroll-margin-top: 1rem; }
.failure .sentence { font-size: 1.0625rem; }
.failure .body { display: grid; gap: 1rem 2rem; grid-template-columns: minmax(0, 1fr); margin-top: .5rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1.25rem 1.5rem; align-items: flex-start; }
figure { margin: 0; max-width: 24rem; min-width: 0; }
figcaption { font-size: .875rem; color: var(--muted); margin-bottom: .4rem; }
figcaption strong { color: var(--text); display: block; }
figure svg { display: block; max-width: 100%; height: auto; }
figure svg text { font-size: 11px; fill: var(--muted); font-family: inherit; font-variant-numeric: tabular-nums; }
figure .frame { fill: none; stroke: var(--line); }
figure .edge { stroke: var(--surface); stroke-opacity: .75; fill: none; }
figure path { shape-rendering: crispEdges; }
.h0 { fill: var(--h0); } .h1 { fill: var(--h1); } .h2 { fill: var(--h2); } .h3 { fill: var(--h3); }
.h4 { fill: var(--h4); } .h5 { fill: var(--h5); } .h6 { fill: var(--h6); } .h7 { fill: url(#hatch); }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1rem; list-style: none; padding: 0; margin: .75rem 0; }
.legend li { display: flex; align-items: center; gap: .4rem; font-size: .8125rem; color: var(--muted); }
.legend svg { width: 1.1rem; height: 1.1rem; border: 1px solid var(--line); border-radius: 3px; flex: none; }

.facts { display: grid; grid-template-columns: 4.75rem minmax(0, 1fr); gap: .15rem .5rem; margin: 0; }
.facts dt { color: var(--muted); font-size: .8125rem; line-height: 1.6; }
.facts dd { margin: 0; grid-column: 2; line-height: 1.5; }

.masonry { columns: 20rem; column-gap: 1rem; margin: 1rem 0; }
.masonry.wide { columns: 26rem; }
.masonry > .card { break-inside: avoid; margin: 0 0 1rem; }
table { border-collapse: collapse; width: 100%; }
.spread { table-layout: fixed; font-size: .875rem; }
.spread th, .spread td { padding: .2rem .35rem; text-align: left; vertical-align: middle; overflow-wrap: anywhere; }
.spread th[scope=row] { font-weight: 400; }
.spread thead th { font-size: .8125rem; color: var(--muted); font-weight: 400; border-bottom: 1px solid var(--line); }
.spread thead th:first-child { width: 28%; }
.spread caption { text-align: left; font-weight: 600; padding: 0 .35rem .2rem; }
.spread .figure { text-align: right; font-variant-numeric: tabular-nums; width: 4.1rem; }
.spread td.over { color: var(--bad); font-weight: 600; }
.spread .bars { padding-inline: 0; }
.spread svg { display: block; width: 100%; height: 1.5rem; border-bottom: 1px solid var(--line); }
.tall svg { height: 4rem; }
.spread .within { fill: var(--bar); } .spread rect.over { fill: var(--bad); }
.budget { stroke: var(--text); stroke-dasharray: 3 2; fill: none; vector-effect: non-scaling-stroke; }
.scale { position: relative; display: flex; justify-content: space-between; }
.scale span { white-space: nowrap; }
.scale .at { position: absolute; transform: translateX(-50%); color: var(--text); }
.scale .before { transform: translateX(-100%); padding-right: .2rem; }

.chips { list-style: none; padding: 0; margin: .5rem 0 0; display: flex; flex-wrap: wrap; gap: .35rem; }
.chips li { background: var(--sunk); border: 1px solid transparent; border-radius: 6px; padding: .05rem .5rem;
  font-size: .8125rem; overflow-wrap: anywhere; }
.chips .count { color: var(--muted); font-variant-numeric: tabular-nums; }
.chips .never { background: none; border: 1px dashed var(--bad); color: var(--bad); }
@media (min-width: 64rem) {
  .failure .body.pictured-1 { grid-template-columns: minmax(0, 1fr) minmax(0, 25rem); }
  .failure .body.pictured-1 .figures { order: 2; }
}
@media (max-width: 30rem) {
  h1 { font-size: 1.5rem; }
  .card { padding: .8rem; }
  .tiles { grid-template-columns: repeat(2, 1fr); }
  .spread thead th:first-child { width: 31%; }
  .spread .figure { width: 3.4rem; padding-left: 0; }
}
@media print { .card, .tiles > div { break-inside: avoid; } }
"""
