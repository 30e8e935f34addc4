"""The live flame graph: a page around the viewer, which loads the last seconds again and again.

Each recording is a page of its own in a frame. The next one is loaded behind the one that is shown,
with its state (zoom, search, colours: the part of its address after `#`), and takes its place when
it is drawn.
"""

from __future__ import annotations

import base64
import hashlib

_STYLE = b"""html,body{height:100%;margin:0;font:14px system-ui,sans-serif}
body{display:flex;flex-direction:column}
header{display:flex;gap:1em;align-items:center;padding:.4em .8em;flex-wrap:wrap}
main{flex:1;position:relative}
iframe{position:absolute;inset:0;width:100%;height:100%;border:0}
iframe.next{visibility:hidden}
@media(prefers-color-scheme:dark){body{background:#1b1b1b;color:#ddd}a{color:#8bf}}"""

_SCRIPT = b"""'use strict';
const $ = id => document.getElementById(id);
let shown = null, next = null, timer = 0;
function load() {
  clearTimeout(timer);
  if (next) next.remove();
  const frame = next = document.createElement('iframe');
  frame.className = 'next';
  frame.title = 'Flame graph';
  frame.onload = () => {
    if (frame !== next) return;
    const state = shown && shown.contentWindow.location.hash;
    const place = frame.contentWindow.location;
    if (state && place.hash !== state) place.hash = state;
    const old = shown;
    setTimeout(() => {
      if (frame !== next) return;
      frame.className = '';
      if (old) old.remove();
      shown = frame;
      next = null;
    }, 300);
    again();
  };
  const state = shown ? shown.contentWindow.location.hash : '';
  frame.src = `profile.html?seconds=${$('seconds').value}&t=${Date.now()}${state}`;
  $('view').append(frame);
}
function again() {
  clearTimeout(timer);
  if ($('run').checked && !document.hidden) timer = setTimeout(load, 1000 * $('every').value);
}
$('seconds').onchange = load;
$('every').onchange = again;
$('run').onchange = () => $('run').checked ? load() : clearTimeout(timer);
document.onvisibilitychange = again;
load();
"""


def _hash(text: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"


LIVE_POLICY = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may do, for the header Content-Security-Policy."""

LIVE_PAGE = (
    b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>jsspy: live flame graph</title>
<style>"""
    + _STYLE
    + b"""</style></head><body>
<header><b>jsspy</b>
<label>last
<select id="seconds"><option>10<option selected>30<option>60<option>300</select> s</label>
<label><input type="checkbox" id="run" checked> refresh every
<select id="every"><option>2<option selected>5<option>15<option>60</select> s</label>
<a href="{{metrics}}">metrics</a> <a href="debug/pprof/">pprof</a>
<a href="profile.jsspy?seconds=300" download>recording</a> <a href="targets">targets</a></header>
<main id="view"></main>
<script>"""
    + _SCRIPT
    + b"""</script></body></html>
"""
)
"""The page; `{{metrics}}` stands for the path of the metrics."""
