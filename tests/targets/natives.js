'use strict';
// Spends its time in C++ below JavaScript: JSON, zlib, crypto, files, garbage collection, in turn.
// Prints "ready" when each has run once. Runs on Node.js 0.12 and later.
const crypto = require('crypto');
const fs = require('fs');
const zlib = require('zlib');

const text = JSON.stringify(Array.from({ length: 500 }, (_, i) => ({ id: i, name: `n${i}` })));
const block = crypto.randomBytes(1 << 15);
const loads = {
  json: () => JSON.stringify(JSON.parse(text)).length,
  zlib: () => zlib.deflateSync(block).length,
  crypto: () => crypto.createHash('sha256').update(block).digest().length,
  fs: () => fs.readFileSync(__filename).length + fs.statSync(__filename).size,
  gc: () => Array.from({ length: 3000 }, (_, i) => ({ i, kept: [i] })).length,
};
let sink = 0;

function turn() {
  for (const name of Object.keys(loads)) {
    for (const end = Date.now() + 10; Date.now() < end;) sink += loads[name]();
  }
  setImmediate(turn);
}

turn();
console.log('ready');
