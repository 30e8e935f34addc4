'use strict';
// Fixed work items under a stack of about 30 frames, each timed on CLOCK_MONOTONIC.
// Prints "ready", then writes "<start ns> <duration ns>" a line to the file named by argv[2].
const fs = require('fs');

const out = fs.openSync(process.argv[2], 'w');
let lines = [];

function hot(seed) {
  let hash = seed | 0;
  for (let i = 0; i < 400000; i++) hash = (Math.imul(hash, 31) + (i ^ (hash >>> 7))) | 0;
  return hash;
}

function item(depth, seed) {
  return depth === 0 ? hot(seed) : item(depth - 1, seed + 1) ^ depth;
}

let sink = 0;
function turn() {
  for (let i = 0; i < 20; i++) {
    const start = process.hrtime.bigint();
    sink ^= item(12, i);
    lines.push(`${start} ${process.hrtime.bigint() - start}`);
  }
  fs.writeSync(out, lines.join('\n') + '\n');
  lines = [];
  setImmediate(turn);
}

for (let i = 0; i < 2000; i++) sink ^= item(12, i & 3) & 1;
console.log('ready');
turn();
