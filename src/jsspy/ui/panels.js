// ---- Details ------------------------------------------------------------------------------------

const command = meta.command || 'all';
const rootName = meta.command ? `all: ${meta.command}` : 'all';

const groupOf = fn => fn < 0 ? '' : GROUPS[fnGroup[fn]][0];

function tiersOf(accept) {
  const weights = new Float64Array(head.tiers.length);
  for (let r = 0; r < rowCount; r++) if (accept(r)) weights[col.frame_tier[col.row_frame[r]]] += rowSelf[r] || 1e-9 * rowTotal[r];
  return [...weights.keys()].filter(t => t && weights[t]).sort((a, b) => weights[b] - weights[a]).map(t => head.tiers[t]);
}

function describe(graph, bar, speak) {
  const {fn, self, total, base, baseSelf} = graph.tree, f = fn[bar];
  const isMain = graph.tree === main;
  const tiers = f >= 0 && isMain ? tiersOf(r => rowBar[r] === bar && rowFn[r] === f).join(', ') : '';
  const withSelf = isMain || graph === graphs[1];
  const {timed} = graph.tree, of = part => timed ? percent(part, total[0]) : share(part);
  const numbers = timed ? `${duration(total[bar])} (${of(total[bar])}), from ${duration(graph.tree.x[bar])}` : base ? `total ${amount(total[bar])}, ${compared(total[bar], base[bar])}` + (isMain ? `; self ${amount(self[bar])}, ${compared(self[bar], baseSelf[bar])}` : '')
    : `total ${amount(total[bar])} (${share(total[bar])})` + (withSelf ? `, self ${amount(self[bar])} (${share(self[bar])})` : '');
  const title = f < 0 ? rootName : name(f);
  const where = definition(f);
  $('detail').replaceChildren(
    h('b', {}, title), ' ', h('span', {}, [where, groupOf(f), packageOf(f), tiers].filter(Boolean).join(' · ')), h('br'), numbers);
  if (speak) say(`${title}, ${numbers}${where ? ', ' + where : ''}${tiers ? ', ' + tiers : ''}`);
}

const sourceLines = new Map(head.lines.map(([url, line, text]) => [`${line}:${strings[url]}`, text]));
let shownFn = -1;

function showFunction(fn) {
  shownFn = fn;
  const box = $('function');
  box.hidden = fn < 0;
  table.mark();
  if (fn < 0) { box.replaceChildren(); return; }
  // A line's total counts rows of the outermost calls only, so that recursion counts once.
  const outer = new Uint8Array(main.count);
  for (let bar = 1; bar < main.count;) if (main.fn[bar] === fn) { outer[bar] = 1; bar = main.end[bar]; } else bar++;
  const lines = new Map();
  for (let r = 0; r < rowCount; r++) {
    const line = rowFn[r] === fn && rowTotal[r] ? col.frame_line[col.row_frame[r]] : 0;
    if (!line) continue;
    const up = r - col.row_up[r];
    const sum = lines.get(line) || {self: 0, total: 0};
    sum.self += rowSelf[r];
    if (rowBar[r] >= 0 && outer[rowBar[r]] && (up < 0 || rowBar[up] !== rowBar[r])) sum.total += rowTotal[r];
    lines.set(line, sum);
  }
  const hot = [...lines].sort((a, b) => b[1].total - a[1].total || a[0] - b[0]).slice(0, 8);
  const tiers = tiersOf(r => rowFn[r] === fn);
  const owner = packageOf(fn);
  box.replaceChildren(
    h('h2', {}, name(fn)),
    h('p', {}, [definition(fn), groupOf(fn), owner, tiers.join(', '),
      isDiff ? `self ${amount(fnSelf[fn])}, ${compared(fnSelf[fn], fnBaseSelf[fn])}; total ${amount(fnTotal[fn])}, ${compared(fnTotal[fn], fnBase[fn])}`
        : `self ${share(fnSelf[fn])}, total ${share(fnTotal[fn])}`].filter(Boolean).join(' · ')),
    h('button', {onclick: () => setFocus(state.focus === fn ? -1 : fn)}, state.focus === fn ? 'Back to the graph' : 'Callers and callees'),
    h('button', {onclick: copy}, 'Copy'));
  if (owner) box.append(h('button', {onclick: () => onlyPackage(owner), title: 'Leave out stacks without it'}, 'Only ' + owner));
  if (hot.length) {
    const file = strings[col.fn_file[fn]];
    box.append(h('table', {}, h('tbody', {}, ...hot.map(([line, {self, total}]) => h('tr', {title: `line ${line}: self ${amount(self)}, total ${amount(total)}`},
      h('td', {className: 'value'}, share(total)),
      h('td', {}, h('code', {}, `${line}  ${sourceLines.get(`${line}:${file}`) || 'no source kept'}`)))))));
  }
}

async function copy() {
  const graph = graphs.find(g => g.hovered > 0) || graphs.find(g => g.selected > 0);
  const fn = graph ? graph.tree.fn[graph.hovered > 0 ? graph.hovered : graph.selected] : shownFn;
  const text = fn < 0 ? rootName : [name(fn), definition(fn)].filter(Boolean).join(' ');
  try {
    await navigator.clipboard.writeText(text);
  } catch {             // no permission, or not a secure context
    const area = h('textarea', {value: text, className: 'unseen'});
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
    focused?.focus();
  }
  say('Copied');
  $('detail').append(' Copied.');
}

// ---- Function table -----------------------------------------------------------------------------

const table = {
  ROW: 24, sort: 'self', rows: new Int32Array(0), start: 0, lines: [],

  make() {
    const heading = (key, label, className) => {
      const button = h('button', {onclick: () => { this.sort = key; this.fill(); }}, label);
      const cell = h('th', {className, scope: 'col'}, button);
      cell.dataset.sort = key;
      return cell;
    };
    this.heads = [heading('self', isDiff ? 'Change' : 'Self', 'value'), heading('total', 'Total', 'value'), heading('name', 'Function', '')];
    this.body = h('tbody');
    this.table = h('table', {ariaLabel: 'Functions'}, h('thead', {}, h('tr', {}, ...this.heads)), this.body);
    this.sizer = h('div', {}, this.table);
    const box = $('table');
    box.append(this.sizer);
    on(box, 'scroll', () => this.show());
    new ResizeObserver(() => this.show()).observe(box);
    on(this.body, 'click', event => {
      const line = event.target.closest('tr');
      if (line) this.pick(this.start + line.sectionRowIndex);
    });
    on(this.body, 'dblclick', () => setFocus(shownFn));
    on(box, 'keydown', event => {
      const page = this.lines.length - 1, at = this.rows.indexOf(shownFn);
      const to = {ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: Infinity}[event.key];
      if (event.target !== box || to === undefined && event.key !== 'Enter') return;
      take(event);
      if (to !== undefined) this.pick(clamp(0, to, this.rows.length - 1));
      else if (shownFn >= 0) setFocus(shownFn);
    });
  },

  fill() {
    const rows = [];
    for (let fn = 0; fn < fnCount; fn++) if ((fnTotal[fn] || isDiff && fnBase[fn]) && (!matched || matched[fn])) rows.push(fn);
    const own = isDiff ? fnSelf.map((value, fn) => Math.abs(value - fnBaseSelf[fn])) : fnSelf;
    const [first, second] = {self: [own, fnTotal], total: [fnTotal, own]}[this.sort] || [];
    this.rows = Int32Array.from(rows).sort(this.sort === 'name' ? (a, b) => name(a) < name(b) ? -1 : name(a) > name(b) ? 1 : a - b
      : (a, b) => first[b] - first[a] || second[b] - second[a] || a - b);
    for (const cell of this.heads) {
      if (cell.dataset.sort === this.sort) cell.ariaSort = this.sort === 'name' ? 'ascending' : 'descending';
      else cell.removeAttribute('aria-sort');
    }
    this.table.ariaRowCount = this.rows.length + 1;
    this.sizer.style.height = (this.rows.length + 1) * this.ROW + 'px';
    this.show();
  },

  show() {
    const box = $('table'), fits = Math.max(0, Math.floor(box.clientHeight / this.ROW) - 1);
    const count = Math.min(fits, this.rows.length);
    this.start = clamp(0, Math.ceil(box.scrollTop / this.ROW - .1), this.rows.length - count);
    while (this.lines.length > count) this.lines.pop().remove();
    while (this.lines.length < count) {
      const line = h('tr', {}, h('td', {className: 'value'}, ''), h('td', {className: 'value'}, ''), h('td', {}, ''));
      this.lines.push(line);
      this.body.append(line);
    }
    this.lines.forEach((line, i) => {
      const fn = this.rows[this.start + i], [self, total, label] = line.cells, where = definition(fn);
      self.textContent = isDiff ? changeOf(fn) : share(fnSelf[fn]);
      total.textContent = share(fnTotal[fn]);
      label.textContent = `${name(fn)}  ${shorten(where)}`;
      line.title = `${name(fn)}\n${where}\nself ${amount(fnSelf[fn])}, total ${amount(fnTotal[fn])}`;
      label.style.setProperty('--swatch', palette.fill[isDiff ? diffStyle(fnSelf[fn], fnBaseSelf[fn]) : fnStyle[fn]]);
      line.ariaRowIndex = this.start + i + 2;
    });
    this.mark();
  },

  mark() {
    this.lines.forEach((line, i) => line.ariaSelected = String(this.rows[this.start + i] === shownFn));
  },

  // Choose the function of a row: its widest bar is selected in the graph.
  pick(index) {
    const fn = this.rows[index], box = $('table');
    if (fn === undefined) return;
    if (state.focus < 0) {
      const {count, fn: fns, total} = graphs[0].tree;
      let widest = 0;
      for (let bar = 1; bar < count; bar++) if (fns[bar] === fn && (!widest || total[bar] > total[widest])) widest = bar;
      if (widest) {
        graphs[0].select(widest, true);
        graphs[0].reveal(widest, 3);
      } else showFunction(fn);             // only in the other recording
    } else showFunction(fn);
    const top = index * this.ROW, room = box.clientHeight - 2 * this.ROW;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (top > box.scrollTop + room) box.scrollTop = top - room;
    say(`${name(fn)}, ${isDiff ? 'change' : 'self'} ${isDiff ? changeOf(fn) : share(fnSelf[fn])}, total ${share(fnTotal[fn])}, row ${index + 1} of ${this.rows.length}`);
  },
};
