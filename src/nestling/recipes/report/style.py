"""The look of the page: one column, system fonts, light and dark, nothing loaded."""

STYLE = """
:root { color-scheme: light dark; --back: #fdfcf9; --ink: #22262b; --soft: #666d75; --line: #dcd8cf; --card: #fff;
  --mark: #0072b2 }
@media (prefers-color-scheme: dark) { :root { --back: #16181b; --ink: #e8e6e1; --soft: #a0a6ad; --line: #363a40;
  --card: #1d2024; --mark: #6cb8ea } }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1rem 4rem }
.kicker { color: var(--mark); font-weight: 600; margin: 0 }
h1 { font-size: clamp(1.25rem, 3.2vw, 1.8rem); line-height: 1.3; margin: .3rem 0 .6rem; font-weight: 600;
  text-wrap: pretty }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
h3 { font-size: 1rem; margin: 0 0 .4rem }
.setting { color: var(--soft); margin: 0 }
.warning { border-left: 4px solid #d55e00; padding: .3rem .8rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .4rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
thead th { color: var(--soft); font-weight: 500; font-size: .85rem; white-space: normal; vertical-align: bottom }
th:first-child, td:last-child:not(:only-child) { padding-right: .7rem }
th:first-child { text-align: left }
article { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem;
  margin: 0 0 1rem }
.pair { display: flex; flex-wrap: wrap; gap: 1rem; align-items: center }
.pair figure { flex: 1 1 19rem; min-width: 0 }
figure { margin: 0 }
.film img, .film video { max-width: 100%; border-radius: .4rem }
figcaption, details, dl { color: var(--soft); font-size: .9rem }
summary { cursor: pointer; padding: .5rem 0 }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .25rem 1rem; margin: .3rem 0 1rem }
dt { color: var(--ink) }
dd { margin: 0; overflow-wrap: anywhere }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .4rem; padding: .7rem 1rem; margin: 0;
  overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr } dd { margin-bottom: .4rem } }
"""
