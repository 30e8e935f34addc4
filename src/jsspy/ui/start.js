// ---- Views --------------------------------------------------------------------------------------

function path(graph) {
  const out = [];
  for (let bar = graph.zoomed; bar > 0; bar = graph.tree.parent[bar]) out.push(graph.tree.fn[bar]);
  return out.reverse();
}

// The bar that is reached through these functions; what is hidden now is stepped over.
function follow(tree, functions) {
  let bar = 0;
  for (const fn of functions) {
    for (let kid = bar + 1; kid < tree.end[bar]; kid = tree.end[kid]) if (tree.fn[kid] === fn) { bar = kid; break; }
  }
  return bar;
}

function rebuild() {
  const way = graphs[0].tree === main && main ? path(graphs[0]) : [];
  buildMain();
  showGraphs();
  found();
  const bar = graphs[0].tree === main ? follow(main, way) : 0;
  if (bar) graphs[0].zoom(bar);
  legend();
  showFunction(shownFn);
  describe(graphs[0], 0, false);
  summary();
  saveSoon();
}

function showGraphs() {
  const both = state.focus >= 0;
  if (both && graphs.length < 2) new Graph();
  if (!both && graphs.length > 1) graphs.pop().pane.remove();
  if (both) {
    graphs[0].show(buildCallers(state.focus), true, 'Callers · ');
    graphs[1].show(buildCallees(state.focus), false, 'Callees · ');
  } else if (state.order && span) {
    const thread = busiest();
    graphs[0].show(buildOrder(thread), state.flame, `${threadName(thread)} · `);
  } else graphs[0].show(main, state.flame, '');
}

// The thread with the most weight of what is chosen.
function busiest() {
  const weight = head.threads.map(() => 0);
  for (let s = 0; s < sampleCount; s++) if (chosen(s)) weight[col.sample_thread[s]] += col.sample_weight[s];
  return weight.indexOf(Math.max(...weight));
}

function onlyPackage(owner) {
  state.query = $('search').value = `^${owner.replace(/[^\w@/ ]/g, '\\$&')}$`;
  state.only = true;
  pressed();
  rebuild();
}

function setFocus(fn) {
  state.focus = fn;
  showGraphs();
  showFunction(fn >= 0 ? fn : shownFn);
  describe(graphs[0], 0, true);
  saveSoon();
}

function summary() {
  const parts = [`${amount(main.total[0])} ${isTime ? UNIT : 'samples'}`];
  if (isDiff) parts[0] = state.before ? `${compared(main.total[0], main.base[0])} (shown: before)` : `${parts[0]}, ${compared(main.total[0], main.base[0])}`;
  else if (isTime && meta.samples) parts.push(`${integer(meta.samples)} samples`);
  if (state.from >= 0) parts.push(`selected ${duration((state.to - state.from) * 1e3)} of ${duration(span * 1e3)}`);
  if (meta.engine) parts.push(meta.engine);
  if (meta.node) parts.push(`Node.js ${meta.node.replace(/^v/, '')}`);
  $('summary').textContent = parts.join(' · ');
}

function legend() {
  const box = $('legend');
  const present = new Set(fnGroup);
  if (box.childElementCount === 0) {
    GROUPS.forEach(([label], kind) => {
      if (!present.has(kind)) return;
      const button = h('button', {onclick: () => { state.hidden ^= 1 << kind; rebuild(); }, title: 'Hide or show; the weight of hidden frames goes to their callers'}, label);
      button.dataset.kind = kind;
      box.append(button);
    });
  }
  for (const button of box.children) {
    const kind = +button.dataset.kind;
    button.textContent = `${GROUPS[kind][0]} ${share(kindSelf[kind])}`;
    button.ariaPressed = String(!(state.hidden >> kind & 1));
    button.style.setProperty('--swatch', isDiff ? palette.line : palette.fill[kind * SHADES + 1]);
  }
  if (!isDiff) return;
  const steps = Array.from({length: 2 * DIFF_STEPS + 1}, (_, step) => {
    const box = h('i');
    box.style.setProperty('--swatch', palette.fill[DIFF_STYLE + step]);
    return box;
  });
  $('scale').replaceChildren('gone ', ...steps, ' new');
}

const systemDark = matchMedia('(prefers-color-scheme: dark)');
function paint() {
  const dark = state.theme ? state.theme === 'dark' : systemDark.matches;
  root.classList.toggle('dark', dark);
  makePalette(dark);
  $('theme').textContent = {'': 'Auto', dark: 'Dark', light: 'Light'}[state.theme];
}

function repaint() {
  paint();
  legend();
  table.show();
  time.draw();
  redraw();
  saveSoon();
}

function pressed() {
  for (const id of ['flame', 'fold', 'order', 'only', 'safe', 'before']) $(id).ariaPressed = String(Boolean(state[id]));
  $('aside').ariaPressed = String(state.table);
  document.querySelector('aside').hidden = !state.table;
}

const actions = {
  flame() { state.flame = !state.flame; if (state.focus < 0) { const at = graphs[0].zoomed; showGraphs(); if (at) graphs[0].zoom(at); } },
  fold() { state.fold = !state.fold; rebuild(); },
  order() { if (span) { state.order = !state.order; rebuild(); } },
  only() { state.only = !state.only; rebuild(); },
  before() { if (isDiff) { state.before = !state.before; rebuild(); } },
  aside() { state.table = !state.table; },
  safe() { state.safe = !state.safe; repaint(); },
  theme() { state.theme = {'': 'dark', dark: 'light', light: ''}[state.theme]; repaint(); },
  reset() { if (state.focus >= 0) setFocus(-1); graphs[0].reset(); graphs[0].select(0, false); },
  next() { step(1); },
  previous() { step(-1); },
  glue() { state.hidden ^= 1 << GLUE; rebuild(); },
  sandwich() { if (state.focus >= 0) setFocus(-1); else if (shownFn >= 0) setFocus(shownFn); },
  search() { $('search').focus(); $('search').select(); },
  table() { if (!state.table) run('aside'); $('table').focus(); },
  graph() { graphs[0].pane.focus(); },
  copy, info, help,
};
function run(action) { actions[action](); pressed(); saveSoon(); }

const KEYS = {
  '/': 'search', n: 'next', N: 'previous', i: 'flame', r: 'fold', o: 'order', m: 'only', v: 'glue', s: 'sandwich', t: 'table', g: 'graph',
  T: 'aside', b: 'before', c: 'copy', d: 'theme', p: 'safe', 0: 'reset', '?': 'help', I: 'info',
};

function dialog(title, rows) {
  const box = h('dialog', {}, h('h2', {}, title),
    h('table', {}, h('tbody', {}, ...rows.map(([key, ...value]) => h('tr', {}, h('td', {}, key), h('td', {}, ...value))))),
    h('button', {onclick: () => box.close(), autofocus: true}, 'Close'));
  on(box, 'close', () => box.remove());
  on(box, 'click', event => { if (event.target === box) box.close(); });
  document.body.append(box);
  box.showModal();
}

function help() {
  const keys = (...list) => h('span', {}, ...list.flatMap(key => [h('kbd', {}, key), ' ']));
  dialog('Keys and mouse', [
    [keys('←', '→', '↑', '↓'), 'Move between frames'],
    [keys('Enter'), 'Zoom in; in the table: callers and callees'],
    [keys('Esc'), 'Zoom out, leave a view, clear the search'],
    [keys('+', '-', '0'), 'Zoom in, out, show everything'],
    [keys('/', 'n', 'N'), 'Search by text or regexp, in names, files and packages; next and previous match'],
    [keys('m'), 'Leave out the stacks without a match'],
    ...span ? [[keys('o'), 'One thread in order of time']] : [],
    [keys('c'), 'Copy name and place of the frame under the mouse, else of the chosen one'],
    [keys('s'), 'Callers and callees of the chosen function'],
    [keys('i', 'r', 'v'), "Turn the graph over; fold recursion; show V8's glue frames"],
    [keys('g', 't', 'T'), 'Go to the graph, to the table; hide the table'],
    ...isDiff ? [[keys('b'), 'Widths of the earlier recording: what is gone can be seen there']] : [],
    [keys('d', 'p'), 'Theme; colours that colour-blind people can tell apart'],
    [keys('I', '?'), 'About the recording; this page'],
    ['Mouse', 'Click, wheel: zoom. Drag: move. Shift and wheel: scroll. Drag in the time line: choose a range'],
  ]);
}

function info() {
  const sum = counts => Object.values(counts).reduce((a, b) => a + b, 0);
  const account = (n, reasons) => [integer(n) + (meta.requested ? ` (${percent(n, meta.requested)})` : ''),
    ...Object.entries(reasons).map(([reason, count]) => `${integer(count)} ${reason}`)].join(', ');
  const truncated = sum(meta.truncated), {pauses} = meta;
  dialog('This recording', [
    ['Command', command], ['Engine', meta.engine], ['Node.js', meta.node], ['V8', meta.v8], ['jsspy', meta.jsspy],
    ['Started', meta.started ? new Date(meta.started).toISOString() : ''],
    ['Duration', meta.duration ? duration(meta.duration) : ''],
    ['Measures', UNIT + (meta.period ? `, one sample each ${duration(meta.period)} per thread` : '')],
    ['Samples requested', meta.requested ? integer(meta.requested) : ''],
    ['Whole stacks', account(meta.samples - truncated, {})],
    ['Truncated', account(truncated, meta.truncated)],
    ['Lost', account(sum(meta.lost), meta.lost)],
    ['Idle, left out', meta.idle ? integer(meta.idle) : ''],
    ['JavaScript frames named', meta.jsFrames ? `${integer(meta.jsFramesNamed)} of ${integer(meta.jsFrames)}` : ''],
    ['Pauses of the target', pauses.count ? `${integer(pauses.count)}; median ${duration(pauses.p50_ns)}, 99 % below ${duration(pauses.p99_ns)}, longest ${duration(pauses.max_ns)}, in all ${duration(pauses.total_ns)}` : ''],
    ['CPU time of jsspy', meta.profilerCpu ? duration(meta.profilerCpu) : ''],
    ...meta.notes.map(note => ['Note', note]),
  ].filter(([, value]) => value));
}

// ---- URL ----------------------------------------------------------------------------------------

let saving = 0, saved = '';

function save() {
  saving = 0;
  const p = new URLSearchParams(), graph = graphs[0], all = graph.tree.total[0] || 1;
  if (state.query) p.set('q', state.query);
  if (state.flame) p.set('flame', 1);
  if (state.fold) p.set('fold', 1);
  if (state.only) p.set('only', 1);
  if (state.order) p.set('order', 1);
  if (isDiff && state.before !== meta.before) p.set('before', +state.before);
  if (state.safe) p.set('safe', 1);
  if (state.theme) p.set('theme', state.theme);
  if (state.hidden !== 1 << GLUE) p.set('hide', state.hidden);
  if (state.thread >= 0) p.set('thread', state.thread);
  if (state.from >= 0) p.set('time', `${Math.round(state.from)}-${Math.round(state.to)}`);
  if (state.focus >= 0) p.set('fn', state.focus);
  if (graph.zoomed) p.set('z', graph.zoomed);
  const {x, total} = graph.tree, bar = graph.zoomed;
  if (graph.from !== x[bar] || graph.to !== x[bar] + total[bar]) p.set('w', `${(graph.from / all).toFixed(9)}-${(graph.to / all).toFixed(9)}`);
  saved = p.toString();
  history.replaceState(null, '', '#' + saved);
}
function saveSoon() { clearTimeout(saving); saving = setTimeout(save, 250); }

const range = (text, low, high) => {
  const parts = (text || '').split('-').map(Number);
  return parts.length === 2 && parts.every(v => v >= low && v <= high) && parts[0] <= parts[1] ? parts : null;
};
const index = (text, count) => /^\d+$/.test(text || '') && +text < count ? +text : -1;

function restore() {
  const p = new URLSearchParams(location.hash.slice(1));
  const times = range(p.get('time'), 0, span);
  Object.assign(state, {
    before: isDiff && (p.has('before') ? p.get('before') === '1' : meta.before),
    query: p.get('q') || '', flame: p.has('flame'), fold: p.has('fold'), only: p.has('only'), order: p.has('order'), safe: p.has('safe'),
    theme: ['dark', 'light'].includes(p.get('theme')) ? p.get('theme') : '',
    hidden: index(p.get('hide'), 1 << GROUPS.length),
    thread: index(p.get('thread'), head.threads.length), focus: index(p.get('fn'), fnCount),
    from: times ? times[0] : -1, to: times ? times[1] : -1,
  });
  if (state.hidden < 0) state.hidden = 1 << GLUE;
  $('search').value = state.query;
  $('thread').value = state.thread;
  paint();
  pressed();
  rebuild();
  const graph = graphs[0], bar = index(p.get('z'), graph.tree.count), part = range(p.get('w'), 0, 1), all = graph.tree.total[0];
  if (bar > 0) graph.zoom(bar);
  if (part) graph.window(part[0] * all, part[1] * all);
  redraw();
}

// ---- Start --------------------------------------------------------------------------------------

$('title').textContent = $('title').title = command === 'all' ? 'Flame graph' : command;
if (meta.notes.length || Object.keys(meta.lost).length || Object.keys(meta.truncated).length) {
  $('info').className = 'notes';
  $('info').textContent = 'Recording: see notes';
}
if (head.threads.length > 1) {
  $('thread').hidden = false;
  $('thread').append(h('option', {value: -1}, 'All threads'), ...head.threads.slice(0, 40).map((_, i) => h('option', {value: i}, threadName(i))));
  on($('thread'), 'change', () => { state.thread = +$('thread').value; rebuild(); });
}
state.table = innerWidth > 900;
$('before').hidden = $('scale').hidden = !isDiff;
$('order').hidden = !span || isDiff;
for (const id of ['before', 'flame', 'fold', 'order', 'only', 'aside', 'safe', 'theme', 'reset', 'next', 'previous', 'info', 'help']) on($(id), 'click', () => run(id));
on($('search'), 'input', () => { state.query = $('search').value; search(); saveSoon(); });
on($('search'), 'keydown', event => {
  if (event.key === 'Enter') step(event.shiftKey ? -1 : 1);
  else if (event.key === 'Escape') {
    if (state.query) { state.query = $('search').value = ''; search(); saveSoon(); } else graphs[0].pane.focus();
  } else return;
  take(event);
});
on(document, 'keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog')) return;
  const typing = event.target.matches('input, select');
  if (event.key === 'Escape') {
    if (graphs.some(graph => graph.goBack())) return;
    if (state.focus >= 0) setFocus(-1);
    else if (state.query) { state.query = $('search').value = ''; search(); }
    return;
  }
  const action = !typing && KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  run(action);
});
on(systemDark, 'change', repaint);
on(window, 'hashchange', () => { if (location.hash.slice(1) !== saved) { restore(); time.draw(); } });

new Graph();
table.make();
time.make();
restore();
root.dataset.ready = '1';
