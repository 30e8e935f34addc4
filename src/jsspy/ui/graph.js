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

  // Says whether the size has changed, which empties the canvases.
  measure() {
    const {clientWidth, clientHeight} = this.pane;
    this.contentHeight = Math.max(RULER + this.levels * ROW + 6, clientHeight);
    this.spacer.style.height = this.contentHeight + 'px';
    const ratio = devicePixelRatio || 1;
    if (clientWidth === this.width && clientHeight === this.height && ratio === this.ratio) return false;
    Object.assign(this, {width: clientWidth, height: clientHeight, ratio});
    for (const canvas of [this.canvas, this.over]) {
      canvas.width = Math.round(clientWidth * ratio);
      canvas.height = Math.round(clientHeight * ratio);
      canvas.style.width = clientWidth + 'px';
      canvas.style.height = clientHeight + 'px';
    }
    return true;
  }

  resize() {
    const atFoot = this.flame && this.pane.scrollTop + this.height >= this.contentHeight - 2;
    if (!this.measure()) return false;
    if (atFoot) this.pane.scrollTop = this.contentHeight;
    return true;
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
    this.resize();       // now, or all of it would be drawn again when the observer says so
    const {tree, context: c, width, height, ratio, from, to} = this;
    if (!width || !height) return;
    const {x, total, fn, first, level} = tree;
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
    const least = roundUp((to - from) / Math.max(2, width / 110)), show = this.tree.timed ? duration : amount, tick = show === duration ? least : Math.max(1, Math.round(least));
    const unit = fit(this.caption + (this.tree.timed ? 'time' : UNIT), width), reserved = width - fitted - 8;
    c.fillText(unit, reserved, RULER / 2);
    for (let i = 0; ; i++) {
      const px = i * tick * scale, label = brief(show(i * tick));
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
    new ResizeObserver(() => { if (this.resize()) this.draw(); }).observe(pane);
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
