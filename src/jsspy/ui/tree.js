// ---- Trees --------------------------------------------------------------------------------------

// Merges (caller bar, function) pairs into bars; then sorts, numbers and lays them out.
class Builder {
  constructor(expected, rootFn) {
    const size = Math.max(16, expected + 1);
    this.fn = new Int32Array(size);
    this.parent = new Int32Array(size);
    this.self = new Float64Array(size);
    this.base = isDiff && new Float64Array(size);   // the weight that is not shown
    this.fn[0] = rootFn;
    this.count = 1;
    this.rehash(2 ** Math.ceil(Math.log2(size * 1.5)));
  }

  rehash(size) {
    this.slots = new Int32Array(size);     // 0 is free: nobody looks up the root
    for (let bar = 1; bar < this.count; bar++) this.slots[this.slot(this.parent[bar], this.fn[bar])] = bar;
  }

  slot(parent, fn) {
    const mask = this.slots.length - 1;
    let at = Math.imul(parent + 1, 0x9e3779b1) ^ Math.imul(fn + 1, 0x85ebca6b);
    for (at = (at ^ at >>> 15) & mask; ; at = at + 1 & mask) {
      const bar = this.slots[at];
      if (!bar || this.parent[bar] === parent && this.fn[bar] === fn) return at;
    }
  }

  intern(parent, fn) {
    let at = this.slot(parent, fn);
    if (this.slots[at]) return this.slots[at];
    const bar = this.count++;
    if (bar === this.fn.length) {
      for (const key of ['fn', 'parent', 'self', 'base']) {
        if (!this[key]) continue;
        const grown = new this[key].constructor(bar * 2);
        grown.set(this[key]);
        this[key] = grown;
      }
    }
    this.fn[bar] = fn;
    this.parent[bar] = parent;
    if (this.count * 1.3 > this.slots.length) this.rehash(this.slots.length * 2);
    else this.slots[at] = bar;
    return bar;
  }

  // Heaviest callee first; ties by name, so that the picture does not depend on sampling order.
  finish() {
    const {fn, parent, self, count} = this;
    this.slots = null;
    const total = self.slice(0, count), base = this.base && this.base.slice(0, count);
    const kids = new Int32Array(count + 1);
    for (let bar = count - 1; bar > 0; bar--) {
      total[parent[bar]] += total[bar];
      if (base) base[parent[bar]] += base[bar];
    }
    for (let bar = 1; bar < count; bar++) if (total[bar] > 0) kids[parent[bar] + 1]++;
    for (let bar = 0; bar < count; bar++) kids[bar + 1] += kids[bar];
    const next = kids.slice(0, count), list = new Int32Array(kids[count]);
    for (let bar = 1; bar < count; bar++) if (total[bar] > 0) list[next[parent[bar]]++] = bar;
    const order = (a, b) => total[b] - total[a] || (name(fn[a]) < name(fn[b]) ? -1 : 1);
    for (let bar = 0; bar < count; bar++) {
      const from = kids[bar], to = kids[bar + 1];
      if (to - from > 12) list.subarray(from, to).sort(order);
      else for (let i = from + 1; i < to; i++) {
        const kid = list[i];
        let k = i;
        while (k > from && order(list[k - 1], kid) > 0) { list[k] = list[k - 1]; k--; }
        list[k] = kid;
      }
    }
    // Depth-first numbering.
    const size = list.length + 1;
    const t = {
      count: size, fn: new Int32Array(size), parent: new Int32Array(size), depth: new Int32Array(size),
      end: new Int32Array(size), x: new Float64Array(size), total: new Float64Array(size),
      self: new Float64Array(size), number: new Int32Array(count).fill(-1), levels: 0,
    };
    if (base) { t.base = new Float64Array(size); t.baseSelf = new Float64Array(size); }
    const stack = new Int32Array(size);
    const cursor = new Float64Array(size);
    stack[0] = 0;
    for (let top = 1, number = 0; top > 0; number++) {
      const bar = stack[--top], up = number ? t.number[parent[bar]] : -1;
      t.number[bar] = number;
      t.fn[number] = fn[bar];
      t.parent[number] = up;
      t.total[number] = total[bar];
      t.self[number] = self[bar];
      if (base) { t.base[number] = base[bar]; t.baseSelf[number] = this.base[bar]; }
      if (number) {
        t.depth[number] = t.depth[up] + 1;
        t.x[number] = cursor[up];
        cursor[up] += total[bar];
        cursor[number] = t.x[number];
      }
      if (t.depth[number] >= t.levels) t.levels = t.depth[number] + 1;
      for (let i = kids[bar + 1] - 1; i >= kids[bar]; i--) stack[top++] = list[i];
    }
    for (let bar = size - 1; bar >= 0; bar--) {
      t.end[bar] += bar + 1;                 // holds the number of bars above until here
      if (bar) t.end[t.parent[bar]] += t.end[bar] - bar;
    }
    return withLevels(t);
  }
}

// Adds the bars of each depth, left to right.
function withLevels(t) {
  const {count, depth, levels} = t, first = t.first = new Int32Array(levels + 1);
  for (let bar = 0; bar < count; bar++) first[depth[bar] + 1]++;
  for (let d = 0; d < levels; d++) first[d + 1] += first[d];
  const level = t.level = new Int32Array(count), fill = first.slice();
  for (let bar = 0; bar < count; bar++) level[fill[depth[bar]]++] = bar;
  return t;
}

let main;            // the tree of everything that is selected
let rowBar, rowSelf, rowTotal;
let fnSelf, fnTotal; // by function; recursion counts once in a total
let fnBaseSelf, fnBase;        // the same of the weight that is not shown
let kindSelf;

let rowMatches = null;      // with `only`: 1 for rows that match or have a caller that does

function chosen(sample) {
  return (state.thread < 0 || col.sample_thread[sample] === state.thread)
    && (state.from < 0 || sampleTime[sample] >= state.from && sampleTime[sample] <= state.to)
    && (!rowMatches || rowMatches[col.sample_row[sample]]);
}

function matchRows() {
  rowMatches = state.only && matched ? new Uint8Array(rowCount) : null;
  if (!rowMatches) return;
  for (let r = 0; r < rowCount; r++) {
    const up = r - col.row_up[r];
    rowMatches[r] = matched[rowFn[r]] || up >= 0 && rowMatches[up] ? 1 : 0;
  }
}

function buildMain() {
  match();
  matchRows();
  rowSelf = new Float64Array(rowCount);
  const [weight, other] = state.before ? [col.sample_base, col.sample_weight] : [col.sample_weight, col.sample_base];
  const rowBase = isDiff && new Float64Array(rowCount);
  const builder = new Builder(rowCount, -1);
  for (let s = 0; s < sampleCount; s++) {
    if (!chosen(s)) continue;
    rowSelf[col.sample_row[s]] += weight[s];
    if (rowBase) rowBase[col.sample_row[s]] += other[s];
  }
  rowTotal = rowSelf.slice();
  const present = rowBase ? rowSelf.map((value, r) => value + rowBase[r]) : rowTotal;   // in either
  for (let r = rowCount - 1; r >= 0; r--) {
    const up = r - col.row_up[r];
    if (up >= 0) {
      rowTotal[up] += rowTotal[r];
      if (rowBase) present[up] += present[r];
    }
  }
  rowBar = new Int32Array(rowCount).fill(-1);
  kindSelf = new Float64Array(GROUPS.length);
  for (let r = 0; r < rowCount; r++) {
    if (!present[r]) continue;
    const fn = rowFn[r], up = r - col.row_up[r], caller = up < 0 ? 0 : rowBar[up];
    let bar = -1;
    kindSelf[fnGroup[fn]] += rowSelf[r];
    if (state.hidden >> fnGroup[fn] & 1) bar = caller;
    else {
      if (state.fold) {
        bar = caller;
        while (bar > 0 && builder.fn[bar] !== fn) bar = builder.parent[bar];
      }
      if (bar <= 0) bar = builder.intern(caller, fn);
    }
    rowBar[r] = bar;
    builder.self[bar] += rowSelf[r];
    if (rowBase) builder.base[bar] += rowBase[r];
  }
  if (rowBase) sumBase(builder);
  main = builder.finish();
  for (let r = 0; r < rowCount; r++) if (rowBar[r] >= 0) rowBar[r] = main.number[rowBar[r]];
  main.number = null;
  fnSelf = new Float64Array(fnCount);
  fnTotal = new Float64Array(fnCount);
  const until = new Int32Array(fnCount);
  for (let bar = 1; bar < main.count; bar++) {
    const fn = main.fn[bar];
    fnSelf[fn] += main.self[bar];
    if (bar >= until[fn]) { fnTotal[fn] += main.total[bar]; until[fn] = main.end[bar]; }
  }
}

// By function, of all bars: those of what is gone are not drawn.
function sumBase({fn, parent, base, count}) {
  const total = base.slice(0, count);
  fnBaseSelf = new Float64Array(fnCount);
  fnBase = new Float64Array(fnCount);
  for (let bar = count - 1; bar > 0; bar--) {
    total[parent[bar]] += total[bar];
    fnBaseSelf[fn[bar]] += base[bar];
    let up = parent[bar];
    while (up > 0 && fn[up] !== fn[bar]) up = parent[up];
    if (up <= 0) fnBase[fn[bar]] += total[bar];
  }
}

// What a function calls, and who calls it; from its outermost bars, so that recursion counts once.
function buildCallees(focus) {
  const builder = new Builder(256, focus);
  const {fn, end, self, parent, base, count} = main;
  const at = new Int32Array(count);
  // Own weight; what only the other recording calls counts as its caller's own.
  const own = base && base.slice();
  if (own) for (let bar = 1; bar < count; bar++) own[parent[bar]] -= base[bar];
  for (let bar = 1; bar < count;) {
    if (fn[bar] !== focus) { bar++; continue; }
    const stop = end[bar];
    for (let b = bar; b < stop; b++) {
      const to = at[b] = b === bar ? 0 : builder.intern(at[parent[b]], fn[b]);
      builder.self[to] += self[b];
      if (own) builder.base[to] += own[b];
    }
    bar = stop;
  }
  return builder.finish();
}

function buildCallers(focus) {
  const builder = new Builder(256, focus);
  const {fn, end, total, base, parent, count} = main;
  for (let bar = 1; bar < count;) {
    if (fn[bar] !== focus) { bar++; continue; }
    let to = 0;
    for (let b = parent[bar]; b > 0; b = parent[b]) to = builder.intern(to, fn[b]);
    builder.self[to] += total[bar];
    if (base) builder.base[to] += base[bar];
    bar = end[bar];
  }
  return builder.finish();
}

// The samples of one thread side by side: a bar is a call, for as long as it was seen in one sample
// after the other. Widths are time that went by, in ns; where the thread did not run there is a gap.
function buildOrder(thread) {
  const t = {thread, timed: true, count: 1, levels: 1};
  let room = 1 << 12, depth = new Int32Array(room);
  for (const key of ['fn', 'parent', 'end']) t[key] = new Int32Array(room);
  for (const key of ['x', 'until']) t[key] = new Float64Array(room);
  t.fn[0] = -1;
  const grow = array => { const grown = new array.constructor(room); grown.set(array); return grown; };
  const stack = [0];      // of open bars
  const from = Math.max(0, state.from), to = state.from < 0 ? Infinity : state.to;
  let lastEnd = -1;
  const close = (left, at) => { while (stack.length > left) { const bar = stack.pop(); t.end[bar] = t.count; t.until[bar] = at; } };
  for (let s = 0; s < sampleCount; s++) {
    if (col.sample_thread[s] !== thread || !chosen(s)) continue;
    const time = (sampleTime[s] - from) * 1e3, lasts = isTime ? col.sample_weight[s] : meta.period || 1e6;
    // A tick is not to the point: half a period more is no gap yet.
    const gap = time > lastEnd + lasts / 2;
    let calls = [];
    for (let r = col.sample_row[s]; r >= 0; r -= col.row_up[r]) {
      const fn = rowFn[r];
      if (!(state.hidden >> fnGroup[fn] & 1)) calls.push(fn);
    }
    calls.reverse();
    if (state.fold) calls = [...new Set(calls)];
    let same = 0;
    while (!gap && same < calls.length && same + 1 < stack.length && t.fn[stack[same + 1]] === calls[same]) same++;
    close(same + 1, gap ? lastEnd : time);
    for (let i = same; i < calls.length; i++) {
      const bar = t.count++;
      if (bar === room) {
        room *= 2;
        depth = grow(depth);
        for (const key of ['fn', 'parent', 'end', 'x', 'until']) t[key] = grow(t[key]);
      }
      t.fn[bar] = calls[i];
      t.parent[bar] = stack[stack.length - 1];
      t.x[bar] = time;
      depth[bar] = stack.length;
      if (stack.push(bar) > t.levels) t.levels = stack.length;
    }
    lastEnd = time + lasts;
  }
  close(1, lastEnd);
  close(0, Math.max(lastEnd, ((to < span ? to : span) - from) * 1e3));
  for (const key of ['fn', 'parent', 'end', 'x', 'until']) t[key] = t[key].subarray(0, t.count);
  t.depth = depth.subarray(0, t.count);
  t.total = t.until.map((until, bar) => until - t.x[bar]);
  t.self = t.total.slice();
  for (let bar = 1; bar < t.count; bar++) t.self[t.parent[bar]] -= t.total[bar];
  return withLevels(t);
}

// ---- Search -------------------------------------------------------------------------------------

let matched = null;      // by function: 1 if it matches
let matchedBars = 0;

let badPattern = '';

// Which functions match, by name, place or package.
function match() {
  matched = null;
  badPattern = '';
  if (!state.query) return;
  let test;
  try {
    const pattern = new RegExp(state.query, 'i');
    test = text => pattern.test(text);
  } catch (error) {
    badPattern = error.message.replace(/^.*: /, '');
    const text = state.query.toLowerCase();
    test = candidate => candidate.toLowerCase().includes(text);
  }
  matched = new Uint8Array(fnCount);
  const packages = new Map();
  const inPackage = fn => {
    const at = col.fn_package[fn];
    if (!packages.has(at)) packages.set(at, test(strings[at]));
    return packages.get(at);
  };
  for (let fn = 0; fn < fnCount; fn++) if (inPackage(fn) || test(name(fn)) || test(definition(fn))) matched[fn] = 1;
}

function search() {
  if (state.only) return rebuild();
  match();
  found();
}

// Says what was found, in the tree that there is.
function found() {
  matchedBars = 0;
  let functions = 0, weight = 0;
  if (matched) {
    const {fn, end, total, count} = main;
    for (let f = 0; f < fnCount; f++) if (matched[f] && fnTotal[f]) functions++;
    for (let bar = 1, until = 0; bar < count; bar++) {
      if (!matched[fn[bar]]) continue;
      matchedBars++;
      if (bar >= until) { weight += total[bar]; until = end[bar]; }
    }
  }
  $('found').textContent = badPattern ? `Not a regexp (${badPattern}); as text: ${share(weight)}`
    : matched ? `${integer(functions)} function${functions === 1 ? '' : 's'}, ${integer(matchedBars)} frames, ${share(weight)}` : '';
  $('found').className = $('search').className = badPattern ? 'bad' : '';
  $('previous').disabled = $('next').disabled = !matchedBars;
  $('only').disabled = !state.query;
  table.fill();
  redraw();
}

function step(direction) {
  if (!matchedBars) return;
  const graph = graphs[0], {fn, count} = graph.tree;
  let bar = graph.selected;
  for (let tries = 0; tries < count; tries++) {
    bar = (bar + direction + count) % count;
    if (bar && matched[fn[bar]]) break;
  }
  graph.select(bar, true);
  graph.reveal(bar, 24);
}
