'use strict';
// Three functions call each other in turn, forever, to a depth of 40: nothing but calls and returns.
// Prints the true line of each function's call as JSON, then "ready". Runs on Node.js 12 and later.
const LINES = { first: [10, 11], second: [15, 16], third: [20, 21], drive: [25, 26] };

let sink = 0;
let limit = 40;

function first(depth, key) {
  if (depth === limit) return sink++;
  return second(depth + 1, key) + 1;
}

function second(depth, key) {
  if (depth === limit) return sink--;
  return third(depth + 1, key === 'x' + depth ? key : key) + 1;
}

function third(depth, key) {
  if (depth === limit) return (sink ^= 5);
  return first(depth + 1, key) + 1;
}

function drive(key) {
  for (;;) {
    first(0, key);
  }
}

require('fs').writeSync(1, JSON.stringify(LINES) + '\nready\n');
drive('x' + process.pid);
