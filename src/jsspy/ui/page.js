// The flame graph viewer, in the order in which its files are joined: page, tree, graph, panels,
// timeline, start. All of it is the body of one async function (see formats/html.py).
//
// Words: a *row* is an entry of the recorded stack table (caller row and frame), a *frame* is a
// function at a line and tier, a *bar* is what is drawn: all rows that have the same functions from
// the root. Bars are numbered in depth-first order, so the bars above bar b are b+1 … end[b]-1, and
// "nested matches once" is a jump to end[b]. Nothing here recurses.

// ---- Page ---------------------------------------------------------------------------------------

const $ = id => document.getElementById(id), root = document.documentElement;
for (const used of [document.currentScript, document.querySelector('noscript')]) used.remove();

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
const packageOf = fn => fn < 0 ? '' : strings[col.fn_package[fn]];
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
  const style = getComputedStyle(root);
  const variable = key => style.getPropertyValue(key).trim();
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
const digits = v => v >= 100 ? integer(v) : v >= 10 ? v.toFixed(1) : v.toFixed(2);
// Not toLocaleString: the first call takes 5 ms.
const integer = n => String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, ',');
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
  only: false,             // leave out stacks without a match of the search
  order: false,            // one thread in order of time, instead of like stacks together
  before: meta.before,     // of a diff: widths are the earlier weights, and change is what will come
};
