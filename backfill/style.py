"""How the page of a report looks, in light and in dark."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #667080; --line: #d8dee6; --paper: #ffffff; --wash: #f5f7f9; --same:
  #2f9e6e; --changed: #d9901a; --missing: #c94040; --extra: #3f7fd0; --quiet: #98a2b0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --dim: #98a2b0; --line: #333a44; --paper: #15181c; --wash:
  #1d2126; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.5rem 4rem; background: var(--paper); color: var(--ink); font:
  15px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; }
h2 { font-size: 1.1rem; margin: 2.4rem 0 .7rem; }
code, pre, td.value { font-family: ui-monospace, monospace; font-size: .86em; }
.dim { color: var(--dim); }
.verdict { font-weight: 600; }
.clean { color: var(--same); }
.different { color: var(--missing); }
.nothing, .incomplete { color: var(--changed); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 1rem 0 0; }
dt { color: var(--dim); }
dd { margin: 0; overflow-wrap: anywhere; }
.bar { display: flex; height: 1.5rem; border-radius: 4px; overflow: hidden; background: var(--wash); border: 1px solid
  var(--line); }
.bar span { min-width: 2px; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; margin: .5rem 0 0; padding: 0; list-style: none; }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .45em; }
.same { background: var(--same); }
.changed { background: var(--changed); }
.missing { background: var(--missing); }
.extra { background: var(--extra); }
.quiet { background: var(--quiet); }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 500; color: var(--dim); }
th, td { padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.number { text-align: right; }
td.value { overflow-wrap: anywhere; white-space: pre-wrap; max-width: 24rem; }
.meter { background: var(--changed); height: .65rem; border-radius: 2px; min-width: 2px; }
td.chart { width: 22%; vertical-align: middle; }
details { margin: .3rem 0; }
summary { cursor: pointer; }
pre { background: var(--wash); border: 1px solid var(--line); border-radius: 4px; padding: .7rem; overflow-x: auto; margin:
  .4rem 0; }
.wide { overflow-x: auto; }
"""
