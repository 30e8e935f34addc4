// The flame graph viewer. Words: a *row* is an entry of the recorded stack table (caller row and
// frame), a *frame* is a function at a line and tier, a *bar* is what is drawn: all rows that have
// the same functions from the root. Bars are numbered in depth-first order, so the bars above bar b
// are b+1 … end[b]-1, and "nested matches once" is a jump to end[b]. Nothing here recurses.
'use strict';
(async () => {

// ---- Page ---------------------------------------------------------------------------------------

const $ = id => document.getElementById(id);

function h(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
const on = (target, type, act, options) => target.addEventListener(type, act, options);
const take = event => { event.preventDefault(); event.stopPropagation(); };
const clamp = (low, value, high) => Math.max(low, Math.min(value, high));
const say = text => { $('live').textContent = text; };

// ---- Data: base64 of zlib of JSON and byte planes (see formats/html.py) -------------------------

const {head, col} = await (async () => {
  const block = $('data');
  const text = block.textContent;
  block.remove();
  const packed = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text)
    : Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate'));
  const bytes = new Uint8Array(await new Response(plain).arrayBuffer());
  let at = 4 + new DataView(bytes.buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, at)));
  const col = {};
  for (const [name, count, planes] of head.columns) {
    const type = [Uint8Array, Uint8Array, Uint16Array, Uint32Array, Uint32Array][planes];
    const out = col[name] = new (type || Float64Array)(count);
    for (let plane = 0, unit = 1; plane < planes; plane++, unit *= 256, at += count) {
      for (let i = 0; i < count; i++) out[i] += bytes[at + i] * unit;
    }
  }
  await new Promise(done => setTimeout(done));      // what follows is another task
  return {head, col};
})();

const {meta, strings} = head, fnGroup = col.fn_group;
const fnCount = col.fn_name.length, rowCount = col.row_frame.length;
const sampleCount = col.sample_row.length;
const rowFn = new Int32Array(rowCount);
for (let r = 0; r < rowCount; r++) rowFn[r] = col.frame_fn[col.row_frame[r]];
const sampleTime = new Float64Array(sampleCount);            // microseconds from the first sample
for (let s = 0, t = 0; s < sampleCount; s++) sampleTime[s] = t += col.sample_gap[s];
const span = sampleCount ? sampleTime[sampleCount - 1] : 0;
const isDiff = 'sample_base' in col;       // of two recordings; weights are those of the later one

const name = fn => fn < 0 ? 'all' : strings[col.fn_name[fn]];
const definition = fn => {
  if (fn < 0) return '';
  const line = col.fn_line[fn], column = col.fn_column[fn];
  return strings[col.fn_file[fn]] + (line ? ':' + line : '') + (line && column ? ':' + column : '');
};
const shorten = path => path.slice(path.lastIndexOf('/') + 1);

// ---- Kinds and colours --------------------------------------------------------------------------

// Label, colour [hue, saturation, lightness] in light and in dark, and a colour-blind-safe one
// (after Okabe and Ito, "Color Universal Design", 2008).
const GROUPS = [
  ['App', [33, 92, 70], [28, 62, 35], [41, 100, 45]],
  ['Dependencies', [54, 68, 70], [50, 60, 27], [56, 85, 60]],
  ['Node core', [142, 38, 70], [148, 40, 27], [164, 100, 31]],
  ['Builtins', [184, 42, 71], [186, 52, 27], [202, 77, 63]],
  ['RegExp', [322, 62, 82], [322, 40, 37], [326, 46, 64]],
  ['WebAssembly', [268, 58, 83], [268, 38, 42], [270, 45, 78]],
  ['Native', [213, 66, 80], [213, 44, 36], [202, 100, 35]],
  ['Kernel', [232, 22, 77], [232, 18, 40], [230, 12, 30]],
  ['GC and VM', [2, 74, 80], [2, 48, 38], [27, 100, 42]],
  ['V8 glue', [220, 10, 86], [220, 8, 30], [0, 0, 85]],
  ['Other', [220, 8, 80], [220, 6, 34], [0, 0, 72]],
];
const GLUE = 9, SHADES = 3;

const fnStyle = new Uint8Array(fnCount);
const wide = new Uint8Array(fnCount);      // has characters whose widths do not simply add up
for (let fn = 0; fn < fnCount; fn++) {
  
  // Neighbours from different files get different shades; the same file has the same shade always.
  fnStyle[fn] = fnGroup[fn] * SHADES + col.fn_file[fn] % SHADES;
  wide[fn] = /[^ -\u024f]/.test(name(fn)) ? 1 : 0;
}
const ROOT_STYLE = GROUPS.length * SHADES, HIT_STYLE = ROOT_STYLE + 1, DIFF_STYLE = ROOT_STYLE + 2;
const DIFF_STEPS = 4;

function toRgb([hue, saturation, lightness]) {
  const a = saturation * Math.min(lightness, 100 - lightness) / 10000;
  return [0, 8, 4].map(n => {
    const k = (n + hue / 30) % 12;
    return 255 * (lightness / 100 - a * Math.max(-1, Math.min(k - 3, 9 - k, 1)));
  });
}
const mix = (a, b, share) => a.map((value, i) => value + (b[i] - value) * share);
const css = rgb => '#' + rgb.map(v => Math.round(v).toString(16).padStart(2, '0')).join('');
// WCAG 2.1, relative luminance and contrast.
const luminance = rgb => rgb.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const contrast = (a, b) => (Math.max(luminance(a), luminance(b)) + .05) / (Math.min(luminance(a), luminance(b)) + .05);

let palette;
function makePalette(dark) {
  const page = dark ? [20, 23, 29] : [255, 255, 255];
  const ink = [[16, 19, 26], [0, 0, 0], [255, 255, 255]];
  const styles = [];
  for (const [, light, night, safe] of GROUPS) {
    const base = state.safe ? safe : dark ? night : light;
    for (let shade = 0; shade < SHADES; shade++) {
      const step = (shade - 1) * (state.safe ? 2 : dark ? 2.5 : 3);
      styles.push(toRgb([base[0], base[1], base[2] + step]));
    }
  }
  styles.push(toRgb(dark ? [220, 12, 24] : [220, 16, 91]), toRgb(dark ? [318, 78, 72] : [318, 82, 38]));
  for (let step = -DIFF_STEPS; step <= DIFF_STEPS; step++) {
    const far = step < 0 ? [213, 80, dark ? 40 : 60] : [8, 80, dark ? 40 : 62];
    styles.push(mix(toRgb([220, 8, dark ? 30 : 90]), toRgb(far), Math.abs(step) / DIFF_STEPS));
  }
  const dimmed = styles.map(rgb => mix(rgb, page, dark ? .62 : .66));
  const text = rgb => ink.find(c => contrast(c, rgb) >= 5) ?? ink[contrast(ink[1], rgb) > contrast(ink[2], rgb) ? 1 : 2];
  // Places are written softer than names, as far as 4.5:1 allows.
  const soft = rgb => { for (let m = .34; m > 0; m -= .04) { const c = mix(text(rgb), rgb, m); if (contrast(c, rgb) >= 4.6) return c; } return text(rgb); };
  const root = getComputedStyle(document.documentElement);
  const variable = key => root.getPropertyValue(key).trim();
  palette = {
    fill: styles.map(css), text: styles.map(s => css(text(s))), soft: styles.map(s => css(soft(s))),
    dim: dimmed.map(css), dimText: dimmed.map(s => css(text(s))),
    page: variable('--page'), line: variable('--line'), ink: variable('--text'), inkSoft: variable('--soft'), accent: variable('--accent'),
  };
}

// ---- Diff ---------------------------------------------------------------------------------------

// From less to more, whichever of the two is shown.
const growth = (shown, other) => state.before ? other - shown : shown - other;
// Redder is heavier than before, bluer is lighter: twice as much is half-way.
function diffStyle(shown, other) {
  return DIFF_STYLE + DIFF_STEPS + Math.round(growth(shown, other) / Math.max(shown, other, 1) * DIFF_STEPS);
}
const signed = (value, text) => (value > 0 ? '+' : value < 0 ? '\u2212' : '') + text(Math.abs(value));
// "40 ms before: +20 ms, +50 %"
function compared(shown, other) {
  const change = growth(shown, other), old = state.before ? shown : other;
  return `${amount(other)} ${state.before ? 'after' : 'before'}: ${signed(change, amount)}`
    + (old ? `, ${signed(change, value => percent(value, old))}` : ', new');
}
const changeOf = fn => signed(growth(fnSelf[fn], fnBaseSelf[fn]), share);

// ---- Numbers ------------------------------------------------------------------------------------

const isTime = meta.unit !== 'samples';
const UNIT = {cpu: 'CPU time', wall: 'wall time', 'off-cpu': 'time off the CPU', samples: 'samples'}[meta.unit] || meta.unit;
const digits = v => v >= 100 ? Math.round(v).toLocaleString('en') : v >= 10 ? v.toFixed(1) : v.toFixed(2);
const integer = n => Math.round(n).toLocaleString('en');
function duration(ns) {
  for (const [unit, size] of [['s', 1e9], ['ms', 1e6], ['µs', 1e3]]) if (ns >= size) return digits(ns / size) + ' ' + unit;
  return ns ? Math.round(ns) + ' ns' : '0';
}
const amount = isTime ? duration : integer;
const brief = text => text.replace(/\.0+ |(\.\d*?)0+ /, '$1 ');
function roundUp(value) {      // to 1, 2 or 5 times a power of ten
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find(m => m * power >= value);
}
const share = part => percent(part, main.total[0]);
const percent = (part, whole) => part && whole ? digits(100 * part / whole) + ' %' : '0 %';

// ---- State: everything that the URL keeps -------------------------------------------------------

const state = {
  query: '', flame: false, safe: false, theme: '', fold: false, table: true,
  hidden: 1 << GLUE,       // bit per kind
  thread: -1, from: -1, to: -1,   // the chosen range, microseconds; -1 is none
  focus: -1,               // function of the callers and callees view
  before: meta.before,     // of a diff: widths are the earlier weights, and change is what will come
};

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
    // The bars of each depth, left to right.
    t.first = new Int32Array(t.levels + 1);
    for (let bar = 0; bar < size; bar++) t.first[t.depth[bar] + 1]++;
    for (let d = 0; d < t.levels; d++) t.first[d + 1] += t.first[d];
    t.level = new Int32Array(size);
    const fill = t.first.slice();
    for (let bar = 0; bar < size; bar++) t.level[fill[t.depth[bar]]++] = bar;
    return t;
  }
}

let main;            // the tree of everything that is selected
let rowBar, rowSelf, rowTotal;
let fnSelf, fnTotal; // by function; recursion counts once in a total
let fnBaseSelf, fnBase;        // the same of the weight that is not shown
let kindSelf;

function chosen(sample) {
  return (state.thread < 0 || col.sample_thread[sample] === state.thread)
    && (state.from < 0 || sampleTime[sample] >= state.from && sampleTime[sample] <= state.to);
}

function buildMain() {
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

// ---- Search -------------------------------------------------------------------------------------

let matched = null;      // by function: 1 if it matches
let matchedBars = 0;

function search() {
  matched = null;
  matchedBars = 0;
  let problem = '', test = null;
  if (state.query) {
    try {
      const pattern = new RegExp(state.query, 'i');
      test = text => pattern.test(text);
    } catch (error) {
      problem = error.message.replace(/^.*: /, '');
      const text = state.query.toLowerCase();
      test = candidate => candidate.toLowerCase().includes(text);
    }
  }
  let functions = 0, weight = 0;
  if (test) {
    matched = new Uint8Array(fnCount);
    for (let fn = 0; fn < fnCount; fn++) {
      if (test(name(fn)) || test(definition(fn))) { matched[fn] = 1; if (fnTotal[fn]) functions++; }
    }
    const {fn, end, total, count} = main;
    for (let bar = 1, until = 0; bar < count; bar++) {
      if (!matched[fn[bar]]) continue;
      matchedBars++;
      if (bar >= until) { weight += total[bar]; until = end[bar]; }
    }
  }
  $('found').textContent = problem ? `Not a regexp (${problem}); as text: ${share(weight)}`
    : test ? `${integer(functions)} function${functions === 1 ? '' : 's'}, ${integer(matchedBars)} frames, ${share(weight)}` : '';
  $('found').className = $('search').className = problem ? 'bad' : '';
  $('previous').disabled = $('next').disabled = !matchedBars;
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

// ---- Drawing ------------------------------------------------------------------------------------

const ROW = 18, RULER = 20, BLOCK = 4, FONT = '12px system-ui, sans-serif';

const widths = new Float32Array(0x250), otherWidths = new Map();
const measuring = document.createElement('canvas').getContext('2d');
measuring.font = FONT;
measuring.fontKerning = 'none';
function advance(code) {
  if (code < 0x250) return widths[code] || (widths[code] = measuring.measureText(String.fromCharCode(code)).width);
  let width = otherWidths.get(code);
  if (width === undefined) otherWidths.set(code, width = measuring.measureText(String.fromCharCode(code)).width);
  return width;
}
// The text, or its beginning and an ellipsis, or nothing. Sets `fitted` to the width.
let fitted = 0;
function fit(text, room) {
  const dots = advance(0x2026);
  let cut = 0, cutWidth = 0;
  fitted = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (fitted + dots <= room && (code & 0xfc00) !== 0xdc00) { cut = i; cutWidth = fitted; }
    fitted += advance(code);
    if (fitted > room) {
      fitted = cutWidth + dots;
      return cut ? text.slice(0, cut) + '…' : '';
    }
  }
  return text;
}

const graphs = [];

class Graph {
  constructor() {
    this.canvas = h('canvas');
    this.over = h('canvas');
    this.spacer = h('div');
    this.pane = h('div', {className: 'pane', tabIndex: 0, role: 'application', ariaRoleDescription: 'flame graph'},
      h('div', {className: 'stage'}, this.canvas, this.over), this.spacer);
    this.context = this.canvas.getContext('2d', {alpha: false});
    this.overContext = this.over.getContext('2d');
    this.caption = '';       // goes before the unit of the ruler
    this.pending = false;
    this.width = this.height = 0;
    this.listen();
    $('graphs').append(this.pane);
    graphs.push(this);
  }

  show(tree, flame, caption) {
    Object.assign(this, {
      tree, flame, caption, selected: 0, zoomed: 0, hovered: -1, back: [], from: 0, to: tree.total[0] || 1,
    });
    this.pane.ariaLabel = `${caption || 'Flame graph: '}arrow keys move, Enter zooms, Escape goes back`;
    this.layout(0);
    this.pane.scrollTop = flame ? this.contentHeight : 0;
    this.schedule();
  }

  // Content is as high as the bars above `bar` are deep: a deep branch elsewhere needs no scrolling.
  layout(bar) {
    const {depth, end, levels} = this.tree;
    let deepest = bar ? 0 : levels - 1;
    if (bar) for (let b = bar; b < end[bar]; b++) if (depth[b] > deepest) deepest = depth[b];
    const before = this.contentHeight;
    this.levels = deepest + 1;
    this.measure();
    if (this.flame && before !== this.contentHeight) this.pane.scrollTop += this.contentHeight - (before || 0);
  }

  measure() {
    const {clientWidth, clientHeight} = this.pane;
    this.contentHeight = Math.max(RULER + this.levels * ROW + 6, clientHeight);
    this.spacer.style.height = this.contentHeight + 'px';
    const ratio = devicePixelRatio || 1;
    if (clientWidth === this.width && clientHeight === this.height && ratio === this.ratio) return;
    Object.assign(this, {width: clientWidth, height: clientHeight, ratio});
    for (const canvas of [this.canvas, this.over]) {
      canvas.width = Math.round(clientWidth * ratio);
      canvas.height = Math.round(clientHeight * ratio);
      canvas.style.width = clientWidth + 'px';
      canvas.style.height = clientHeight + 'px';
    }
  }

  y(depth) {
    return (this.flame ? this.contentHeight - (depth + 1) * ROW - 2 : RULER + depth * ROW) - this.pane.scrollTop;
  }

  depthAt(y) {
    y += this.pane.scrollTop;
    return Math.floor(this.flame ? (this.contentHeight - 2 - y) / ROW : (y - RULER) / ROW);
  }

  schedule() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => { this.pending = false; this.draw(); });
  }

  // The first place in `level` at this depth whose bar ends right of `value`.
  seek(depth, value) {
    const {first, level, x, total} = this.tree;
    let low = first[depth], high = first[depth + 1];
    while (low < high) {
      const middle = low + high >> 1, bar = level[middle];
      if (x[bar] + total[bar] > value) high = middle; else low = middle + 1;
    }
    return low;
  }

  draw() {
    const {tree, context: c, width, height, ratio, from, to} = this;
    if (!tree || !width || !height) return;
    const {x, total, fn, first, level, base} = tree;
    const scale = width / (to - from);
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.fillStyle = palette.page;
    c.fillRect(0, 0, width, height);
    c.font = FONT;
    c.fontKerning = 'none';
    c.textBaseline = 'middle';
    const {fill, text, soft, dim, dimText} = palette;
    const top = this.depthAt(this.flame ? height : RULER), bottom = this.depthAt(this.flame ? RULER : height);
    const marks = [], labels = [];      // bars that are wide enough for one: drawn after all boxes
    let last = '';
    const box = (left, right, y, colour) => {
      if (colour !== last) c.fillStyle = last = colour;
      c.fillRect(left, y, right - left, ROW - 1);
    };
    for (let d = Math.max(0, top); d <= bottom && d < tree.levels; d++) {
      const y = this.y(d);
      // Slivers that touch become blocks in the colour of their widest, with matches marked on them;
      // narrow ones, so that nobody takes a block for a frame.
      let blockLeft = 0, blockRight = -1, blockBar = -1;
      const flush = () => {
        if (blockBar < 0) return;
        const left = Math.floor(blockLeft);
        box(left, Math.max(left + 1, Math.round(blockRight)), y, (matched ? dim : fill)[this.style(blockBar)]);
        for (const px of marks) box(px, px + 1, y, fill[HIT_STYLE]);
        marks.length = 0;
        blockBar = -1;
      };
      for (let k = this.seek(d, from), stop = first[d + 1]; k < stop; k++) {
        const bar = level[k], start = x[bar];
        if (start >= to) break;
        const left = (start - from) * scale, right = left + total[bar] * scale;
        const hit = matched !== null && bar > 0 && matched[fn[bar]] === 1;
        if (right - left < 1.5) {
          if (blockBar >= 0 && (left - blockRight > 1 || left - blockLeft > BLOCK)) flush();
          if (blockBar < 0) { blockLeft = left; blockBar = bar; }
          else if (total[bar] > total[blockBar]) blockBar = bar;
          blockRight = right;
          if (hit && Math.floor(left) !== marks[marks.length - 1]) marks.push(Math.floor(left));
          continue;
        }
        flush();
        const style = this.style(bar), l = Math.max(0, Math.round(left)), r = Math.min(width, Math.round(right));
        box(l, Math.max(l + 1, r - (right - left > 4 ? 1 : 0)), y,
          hit ? fill[HIT_STYLE] : matched ? dim[style] : fill[style]);
        if (r - l > 22) labels.push(bar, l, r, y, hit ? HIT_STYLE : style);
      }
      flush();
    }
    for (let i = 0; i < labels.length; i += 5) {
      const bar = labels[i], l = labels[i + 1], r = labels[i + 2], middle = labels[i + 3] + ROW / 2, style = labels[i + 4];
      const room = r - l - 9, f = fn[bar], faded = matched && style !== HIT_STYLE;
      const whole = f < 0 ? rootName : name(f);
      const label = fit(whole, room);
      if (!label) continue;
      const odd = f >= 0 && wide[f];
      if (odd) { c.save(); c.beginPath(); c.rect(l, middle - 9, r - l - 1, ROW); c.clip(); }
      c.fillStyle = faded ? dimText[style] : text[style];
      c.fillText(label, l + 4, middle);
      if (odd) c.restore();
      else if (label === whole && f >= 0 && room - fitted > 60) {
        const used = fitted + 10, where = fit(shorten(definition(f)), room - used);
        if (where) { c.fillStyle = faded ? dimText[style] : soft[style]; c.fillText(where, l + 4 + used, middle); }
      }
    }
    this.ruler(c, scale);
    this.overlay();
  }

  style(bar) {
    const {fn, base, total} = this.tree;
    if (bar === 0 && fn[0] < 0) return ROOT_STYLE;
    return base ? diffStyle(total[bar], base[bar]) : fnStyle[fn[bar]];
  }

  ruler(c, scale) {
    const {width, from, to} = this;
    c.fillStyle = palette.page;
    c.fillRect(0, 0, width, RULER);
    c.fillStyle = palette.inkSoft;
    const least = roundUp((to - from) / Math.max(2, width / 110)), tick = isTime ? least : Math.max(1, Math.round(least));
    const unit = fit(this.caption + UNIT, width), reserved = width - fitted - 8;
    c.fillText(unit, reserved, RULER / 2);
    for (let i = 0; ; i++) {
      const px = i * tick * scale, label = brief(amount(i * tick));
      fit(label, width);
      if (px + fitted + 8 > reserved) break;
      c.fillRect(Math.round(px), 0, 1, 5);
      c.fillText(label, Math.round(px) + 4, RULER / 2);
    }
  }

  overlay() {
    const {overContext: c, ratio, width, height, tree} = this;
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    const outline = (bar, colour, thick) => {
      const scale = width / (this.to - this.from), y = this.y(tree.depth[bar]);
      const left = Math.round((tree.x[bar] - this.from) * scale), right = Math.round((tree.x[bar] + tree.total[bar] - this.from) * scale);
      if (right < 0 || left > width || y < RULER - ROW || y > height) return;
      c.strokeStyle = colour;
      c.lineWidth = thick;
      const l = Math.max(0, left), r = Math.min(width, Math.max(right, l + 3));
      c.strokeRect(l + thick / 2, y - .5 + thick / 2, r - l - thick, ROW - thick);
    };
    if (this.hovered > 0) outline(this.hovered, palette.ink, 1);
    if (this.selected > 0 || document.activeElement === this.pane) outline(this.selected, palette.ink, 2);
  }

  hit(px, py) {
    const d = this.depthAt(py);
    if (py < RULER || d < 0 || d >= this.tree.levels) return -1;
    const value = this.from + px * (this.to - this.from) / this.width, {first, level, x} = this.tree;
    const k = this.seek(d, value);
    return k < first[d + 1] && x[level[k]] <= value ? level[k] : -1;
  }

  // -- Moving

  remember() {
    const last = this.back[this.back.length - 1];
    if (last && last.from === this.from && last.to === this.to) return;
    this.back.push({from: this.from, to: this.to, zoomed: this.zoomed});
    if (this.back.length > 200) this.back.shift();
  }

  window(from, to) {
    const all = this.tree.total[0] || 1, least = all * 1e-9;
    const size = Math.min(all, Math.max(least, to - from));
    this.from = clamp(0, from, all - size);
    this.to = this.from + size;
    this.schedule();
    saveSoon();
  }

  zoom(bar) {
    const {x, total} = this.tree;
    if (this.from !== x[bar] || this.to !== x[bar] + total[bar]) this.remember();
    this.zoomed = bar;
    this.from = x[bar];
    this.to = x[bar] + total[bar] || 1;
    this.layout(bar);
    this.seeDepth(this.tree.depth[bar]);
    this.schedule();
    saveSoon();
  }

  goBack() {
    const last = this.back.pop();
    if (!last) { if (this.zoomed || this.from > 0 || this.to < this.tree.total[0]) this.reset(); return false; }
    this.zoomed = last.zoomed;
    this.layout(last.zoomed);
    this.window(last.from, last.to);
    this.seeDepth(this.tree.depth[this.selected]);
    return true;
  }

  reset() {
    this.zoom(0);
    this.back = [];
    this.pane.scrollTop = this.flame ? this.contentHeight : 0;
  }

  magnify(factor, px) {
    const at = this.from + px * (this.to - this.from) / this.width;
    this.window(at - (at - this.from) * factor, at + (this.to - at) * factor);
  }

  seeDepth(depth) {
    const y = this.y(depth), low = RULER, high = this.height - ROW - 4;
    if (y < low) this.pane.scrollTop += y - low - (this.flame ? ROW : 0);
    else if (y > high) this.pane.scrollTop += y - high + (this.flame ? 0 : ROW);
  }

  // Bring a bar into view, at least `pixels` wide.
  reveal(bar, pixels) {
    const {x, total, parent} = this.tree;
    const scale = this.width / (this.to - this.from);
    if (total[bar] * scale < pixels || x[bar] < this.from || x[bar] + total[bar] > this.to) {
      let around = bar;
      while (around > 0 && total[bar] / total[parent[around]] * this.width >= pixels * 4) around = parent[around];
      this.zoom(around);
    }
    this.seeDepth(this.tree.depth[bar]);
    this.schedule();
  }

  select(bar, speak) {
    this.selected = bar;
    for (const graph of graphs) if (graph !== this) graph.selected = 0;
    showFunction(this.tree.fn[bar]);
    describe(this, bar, speak);
    redraw();
  }

  // -- Events

  listen() {
    const {pane} = this;
    const at = event => {
      const area = pane.getBoundingClientRect();
      return [event.clientX - area.left, event.clientY - area.top];
    };
    let down = null;
    on(pane, 'pointerdown', event => {
      if (event.button || at(event)[0] >= this.width) return;      // the latter is the scroll bar
      down = {x: event.clientX, y: event.clientY, from: this.from, to: this.to, top: pane.scrollTop, moved: false};
    });
    on(pane, 'pointermove', event => {
      if (!down) {
        this.hover(this.hit(...at(event)));
        return;
      }
      const dx = event.clientX - down.x, dy = event.clientY - down.y;
      if (!down.moved && Math.abs(dx) + Math.abs(dy) > 4) {
        down.moved = true;
        this.remember();
        pane.setPointerCapture(event.pointerId);
      }
      if (!down.moved) return;
      const shift = dx * (down.to - down.from) / this.width;
      this.window(down.from - shift, down.to - shift);
      pane.scrollTop = down.top - dy;
    });
    const up = event => {
      const was = down;
      down = null;
      if (!was || was.moved || event.type !== 'pointerup') return;
      const bar = this.hit(...at(event));
      if (bar < 0) return;
      this.select(bar, false);
      this.zoom(bar);
    };
    on(pane, 'pointerup', up);
    on(pane, 'pointercancel', up);
    on(pane, 'pointerleave', () => this.hover(-1));
    on(pane, 'wheel', event => {
      event.preventDefault();
      const unit = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? this.height : 1;
      const dx = event.deltaX * unit, dy = event.deltaY * unit;
      if (event.shiftKey) pane.scrollTop += dy || dx;
      else if (Math.abs(dx) > Math.abs(dy)) {
        const shift = dx * (this.to - this.from) / this.width;
        this.window(this.from + shift, this.to + shift);
      } else this.magnify(Math.exp(dy * (event.ctrlKey ? .01 : .002)), at(event)[0]);
    }, {passive: false});
    on(pane, 'scroll', () => this.schedule());
    on(pane, 'focus', () => { this.overlay(); describe(this, this.selected, true); });
    on(pane, 'blur', () => this.overlay());
    on(pane, 'keydown', event => this.key(event));
    new ResizeObserver(() => {
      if (!this.tree) return;
      const atFoot = this.flame && this.pane.scrollTop + this.height >= this.contentHeight - 2;
      this.measure();
      if (atFoot) this.pane.scrollTop = this.contentHeight;
      this.draw();
    }).observe(pane);
  }

  hover(bar) {
    if (bar === this.hovered) return;
    this.hovered = bar;
    this.overlay();
    describe(this, bar < 0 ? this.selected : bar, false);
  }

  // The neighbour at the same depth.
  sibling(direction) {
    const {first, level, depth} = this.tree, d = depth[this.selected];
    let k = first[d];
    while (level[k] !== this.selected) k++;
    k += direction;
    return k >= first[d] && k < first[d + 1] ? level[k] : -1;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const {tree, selected} = this;
    let to = -1;
    switch (event.key) {
      case 'ArrowLeft': to = this.sibling(-1); break;
      case 'ArrowRight': to = this.sibling(1); break;
      case 'ArrowUp': case 'ArrowDown':
        if ((event.key === 'ArrowUp') === this.flame) to = tree.end[selected] > selected + 1 ? selected + 1 : -1;
        else to = tree.parent[selected];
        break;
      case 'Home': to = 0; break;
      case 'Enter': case ' ': this.zoom(selected); break;
      case 'Backspace': this.goBack(); break;
      case '+': case '=': case '-': {
        const middle = tree.x[selected] + tree.total[selected] / 2;
        const px = clamp(0, (middle - this.from) / (this.to - this.from), 1) * this.width;
        this.remember();
        this.magnify(event.key === '-' ? 1.5 : 1 / 1.5, px);
        break;
      }
      case 'PageUp': this.pane.scrollTop -= this.height - 2 * ROW; break;
      case 'PageDown': this.pane.scrollTop += this.height - 2 * ROW; break;
      default: return;
    }
    take(event);
    if (to >= 0) { this.select(to, true); this.reveal(to, 3); }
  }
}

function redraw() { for (const graph of graphs) graph.schedule(); }

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
  const numbers = base ? `total ${amount(total[bar])}, ${compared(total[bar], base[bar])}` + (isMain ? `; self ${amount(self[bar])}, ${compared(self[bar], baseSelf[bar])}` : '')
    : `total ${amount(total[bar])} (${share(total[bar])})` + (withSelf ? `, self ${amount(self[bar])} (${share(self[bar])})` : '');
  const title = f < 0 ? rootName : name(f);
  const where = definition(f);
  $('detail').replaceChildren(
    h('b', {}, title), ' ', h('span', {}, [where, groupOf(f), tiers].filter(Boolean).join(' · ')), h('br'), numbers);
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
  box.replaceChildren(
    h('h2', {}, name(fn)),
    h('p', {}, [definition(fn), groupOf(fn), tiers.join(', '),
      isDiff ? `self ${amount(fnSelf[fn])}, ${compared(fnSelf[fn], fnBaseSelf[fn])}; total ${amount(fnTotal[fn])}, ${compared(fnTotal[fn], fnBase[fn])}`
        : `self ${share(fnSelf[fn])}, total ${share(fnTotal[fn])}`].filter(Boolean).join(' · ')),
    h('button', {onclick: () => setFocus(state.focus === fn ? -1 : fn)}, state.focus === fn ? 'Back to the graph' : 'Callers and callees'),
    h('button', {onclick: copy}, 'Copy'));
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
      let widest = 0;
      for (let bar = 1; bar < main.count; bar++) if (main.fn[bar] === fn && (!widest || main.total[bar] > main.total[widest])) widest = bar;
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

// ---- Time line ----------------------------------------------------------------------------------

const TRACK = 22, MAX_TRACKS = 6;
// V8's states in the colours of the kinds that they belong to.
const VM_KIND = {js: 0, gc: 8, parser: 3, 'bytecode-compiler': 3, compiler: 5, external: 6, other: 6, idle: 10, 'atomics-wait': 10};

const time = {
  canvas: $('time'), tracks: [],

  make() {
    this.canvas.hidden = !(span > 0 && sampleCount > 2);
    if (this.canvas.hidden) return;
    const weight = head.threads.map(() => 0);
    for (let s = 0; s < sampleCount; s++) weight[col.sample_thread[s]] += col.sample_weight[s];
    this.tracks = [...weight.keys()].sort((a, b) => weight[b] - weight[a] || a - b).slice(0, MAX_TRACKS);
    this.canvas.style.height = this.tracks.length * TRACK + 16 + 'px';
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  },

  kind(sample) {
    const known = VM_KIND[head.vmStates[col.sample_vm[sample]]];
    if (known > 0) return known;
    return fnGroup[rowFn[col.sample_row[sample]]];
  },

  // Weight by track, pixel and kind, drawn as stacked columns; a full column is a busy thread.
  draw() {
    const {canvas, tracks} = this, width = canvas.clientWidth, height = canvas.clientHeight, ratio = devicePixelRatio || 1;
    if (canvas.hidden || !width) return;
    const c = canvas.getContext('2d', {alpha: false}), step = 2, bins = Math.ceil(width / step), kinds = GROUPS.length;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.fillStyle = palette.page;
    c.fillRect(0, 0, width, height);
    const place = new Map(tracks.map((thread, i) => [thread, i]));
    const sums = new Float64Array(tracks.length * bins * kinds);
    for (let s = 0; s < sampleCount; s++) {
      const track = place.get(col.sample_thread[s]);
      if (track === undefined) continue;
      const bin = Math.min(bins - 1, Math.floor(sampleTime[s] / span * bins));
      sums[(track * bins + bin) * kinds + this.kind(s)] += col.sample_weight[s];
    }
    let most = 0;
    const all = new Float64Array(tracks.length * bins);
    for (let i = 0; i < all.length; i++) {
      for (let k = 0; k < kinds; k++) all[i] += sums[i * kinds + k];
      most = Math.max(most, all[i]);
    }
    tracks.forEach((thread, track) => {
      const foot = 15 + (track + 1) * TRACK;
      for (let bin = 0; bin < bins; bin++) {
        const i = track * bins + bin;
        let y = foot;
        for (let k = 0; k < kinds; k++) {
          const tall = sums[i * kinds + k] / most * (TRACK - 3);
          if (!tall) continue;
          c.fillStyle = palette.fill[k * SHADES + 1];
          c.fillRect(bin * step, y - tall, step, tall);
          y -= tall;
        }
      }
      c.fillStyle = palette.line;
      c.fillRect(0, foot, width, 1);
    });
    c.font = '11px system-ui, sans-serif';
    c.textBaseline = 'middle';
    for (let t = 0, every = roundUp(span * 90 / width); t < span; t += every) {
      const px = Math.round(t / span * width);
      c.fillStyle = palette.line;
      c.fillRect(px, 0, 1, height);
      c.fillStyle = palette.inkSoft;
      const label = brief(duration(t * 1e3));
      c.fillText(label, px + 4, 7);
    }
    if (state.from >= 0) {
      const left = state.from / span * width, right = Math.max(left + 1, state.to / span * width);
      c.fillStyle = palette.page;
      c.globalAlpha = .7;
      c.fillRect(0, 15, left, height);
      c.fillRect(right, 15, width, height);
      c.globalAlpha = 1;
      c.fillStyle = palette.accent;
      c.fillRect(left - 1, 0, 2, height);
      c.fillRect(right - 1, 0, 2, height);
    }
    tracks.forEach((thread, track) => {
      if (tracks.length < 2) return;
      const label = threadName(thread), y = 15 + track * TRACK + TRACK / 2;
      c.fillStyle = palette.page;
      c.globalAlpha = .85;
      c.fillRect(3, y - 7, c.measureText(label).width + 6, 14);
      c.globalAlpha = 1;
      c.fillStyle = palette.ink;
      c.fillText(label, 6, y);
    });
  },

  choose(from, to) {
    state.from = from < 0 ? -1 : Math.max(0, Math.min(from, to));
    state.to = from < 0 ? -1 : Math.min(span, Math.max(from, to));
    this.draw();
  },

  listen() {
    const {canvas} = this;
    const at = event => clamp(0, (event.clientX - canvas.getBoundingClientRect().left) / canvas.clientWidth, 1) * span;
    let start = -1, moved = false;
    on(canvas, 'pointerdown', event => { start = at(event); moved = false; canvas.setPointerCapture(event.pointerId); });
    on(canvas, 'pointermove', event => {
      if (start < 0) return;
      const now = at(event);
      if (Math.abs(now - start) / span * canvas.clientWidth > 3) moved = true;
      if (moved) this.choose(start, now);
    });
    on(canvas, 'pointerup', () => {
      if (!moved) this.choose(-1, -1);
      start = -1;
      rebuild();
    });
    on(canvas, 'keydown', event => {
      const way = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (way) {
        const some = span / 20, {from, to} = state;
        if (from < 0) this.choose(0, span / 10);
        else if (event.shiftKey) this.choose(from, Math.max(from + some / 10, to + way * some));
        else { const by = clamp(-from, way * some, span - to); this.choose(from + by, to + by); }
      } else if (event.key === 'Escape' && state.from >= 0) this.choose(-1, -1);
      else return;
      take(event);
      rebuild();
      say(state.from < 0 ? 'Whole recording' : `From ${duration(state.from * 1e3)} to ${duration(state.to * 1e3)}`);
    });
  },
};

const threadName = index => {
  const [pid, tid, label, process] = head.threads[index];
  return `${label || process || 'thread'} ${tid || pid}`;
};

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
  const bar = state.focus < 0 ? follow(main, way) : 0;
  if (bar) graphs[0].zoom(bar);
  search();
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
  } else graphs[0].show(main, state.flame, '');
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
  document.documentElement.classList.toggle('dark', dark);
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
  for (const id of ['flame', 'fold', 'safe', 'before']) $(id).ariaPressed = String(Boolean(state[id]));
  $('aside').ariaPressed = String(state.table);
  document.querySelector('aside').hidden = !state.table;
}

const actions = {
  flame() { state.flame = !state.flame; if (state.focus < 0) { const at = graphs[0].zoomed; showGraphs(); if (at) graphs[0].zoom(at); } },
  fold() { state.fold = !state.fold; rebuild(); },
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
  '/': 'search', n: 'next', N: 'previous', i: 'flame', r: 'fold', v: 'glue', s: 'sandwich', t: 'table', g: 'graph',
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
    [keys('/', 'n', 'N'), 'Search by text or regexp; next and previous match'],
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
    query: p.get('q') || '', flame: p.has('flame'), fold: p.has('fold'), safe: p.has('safe'),
    theme: ['dark', 'light'].includes(p.get('theme')) ? p.get('theme') : '',
    hidden: p.has('hide') ? index(p.get('hide'), 1 << GROUPS.length) : 1 << GLUE,
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
  time.draw();
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
for (const id of ['before', 'flame', 'fold', 'aside', 'safe', 'theme', 'reset', 'next', 'previous', 'info', 'help']) on($(id), 'click', () => run(id));
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
on(window, 'hashchange', () => { if (location.hash.slice(1) !== saved) restore(); });

new Graph();
table.make();
time.make();
restore();
document.documentElement.dataset.ready = '1';
})().catch(error => { document.body.prepend(`Cannot draw: ${error}`); throw error; });
