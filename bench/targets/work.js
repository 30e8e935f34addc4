'use strict';
// Fixed work under a stack of about 30 frames, in items of about 10 ms: long enough that each of
// them has its share of 99 samples a second. Prints "ready", then writes a line an item to the file
// named by argv[2]: "<start> <duration> <of it waiting for a CPU>", ns on CLOCK_MONOTONIC.
const fs = require('fs');

const out = fs.openSync(process.argv[2], 'w');
const schedstat = fs.openSync('/proc/self/schedstat', 'r');
const text = Buffer.alloc(128);
const table = Int32Array.from({ length: 1 << 15 }, (_, i) => Math.imul(i, 0x9e3779b1));

function waited() {
  return Number(text.latin1Slice(0, fs.readSync(schedstat, text, 0, 128, 0)).split(' ')[1]);
}

function hot(seed) {
  let hash = seed | 0;
  for (let i = 0; i < 100000; i++) hash = (Math.imul(hash, 31) + (i ^ table[(hash >>> 9) & 32767])) | 0;
  return hash;
}

function descend(depth, seed) {
  return depth === 0 ? hot(seed) : descend(depth - 1, seed + 1) ^ depth;
}

let sink = 0;
function item() {
  for (let i = 0; i < 20; i++) sink ^= descend(12, i);
}

function turn() {
  const waitedBefore = waited();
  const start = process.hrtime.bigint();
  item();
  const end = process.hrtime.bigint();
  fs.writeSync(out, `${start} ${end - start} ${waited() - waitedBefore}\n`);
  setImmediate(turn);
}

for (let i = 0; i < 60; i++) item();
console.log('ready');
turn();
