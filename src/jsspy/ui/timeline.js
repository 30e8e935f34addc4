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
