"""Style and script of the page of results. Nothing is loaded from anywhere."""

from __future__ import annotations

__all__ = ["POLICY", "SCRIPT", "STYLE"]

# Tells the browser to refuse whatever would come from elsewhere.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --line: #8884; --right: #1a7f37; --wrong: #cf222e; --none: #9a6700; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1rem; }
th, td { border: 1px solid var(--line); padding: .25rem .6rem; text-align: left; vertical-align: top; }
.scroll { overflow-x: auto; }
.printed caption, .printed th { font-style: italic; }
caption { font-weight: 600; padding: .3rem 0; text-align: left; }
.note { font-size: .9em; opacity: .8; }
.number { white-space: nowrap; }
nav a { display: inline-block; margin: .1rem .8rem .1rem 0; }
.filter { background: Canvas; border-bottom: 1px solid var(--line); padding: .5rem 0; position: sticky; top: 0; }
.item { border: 1px solid var(--line); border-radius: 6px; margin: .7rem 0; padding: .6rem .8rem; }
.item h3 { font-size: 1rem; margin: 0 0 .3rem; }
.strip img { height: 72px; margin: 2px 2px 0 0; }
.strip { margin: .3rem 0; }
.question, .answer { white-space: pre-wrap; }
.item h3, .strip, .question, .item td:nth-child(2) { overflow-wrap: anywhere; }
.item td:last-child { white-space: nowrap; }
.item table { width: 100%; }
.filter select, .filter input { max-width: 100%; }
h2, .item { scroll-margin-top: 3.5rem; }
@media (max-width: 40rem) {
  body { font-size: 14px; padding: .6rem; }
  th, td { padding: .2rem .35rem; }
}
.right { color: var(--right); } .wrong { color: var(--wrong); } .none { color: var(--none); }
"""

# Cards hold their facts in data attributes: `states` has one word for each run.
SCRIPT = """
const cards = [...document.querySelectorAll('.item')];
const choice = name => document.getElementById(name);
const matches = (card, wanted, run) => {
  const states = card.dataset.states.split(' ');
  const chosen = run === '' ? states : [states[Number(run)]];
  if (wanted === 'all') return true;
  if (wanted === 'differ') return new Set(states).size > 1;
  return chosen.includes(wanted);
};
const show = () => {
  const task = choice('task').value, wanted = choice('state').value, run = choice('run').value;
  const text = choice('text').value.toLowerCase();
  let count = 0;
  for (const card of cards) {
    const fits = (task === '' || card.dataset.task === task) && matches(card, wanted, run)
      && card.textContent.toLowerCase().includes(text);
    card.hidden = !fits;
    count += fits;
  }
  choice('count').textContent = `${count} of ${cards.length} items`;
};
const names = JSON.parse(choice('runs').textContent);
const list_runs = () => {
  const labels = names[choice('task').value] || [];
  choice('run').replaceChildren(new Option('any run', ''), ...labels.map((label, n) => new Option(label, String(n))));
};
choice('task').addEventListener('input', () => { list_runs(); show(); });
for (const name of ['state', 'run', 'text']) choice(name).addEventListener('input', show);
list_runs();
show();
"""
