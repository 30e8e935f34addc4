'use strict';
// What recursive.js is, in the JavaScript of Node.js 0.10 to 11: three functions call each other in
// turn, forever, to a depth of 40. Prints the true line of each function's call, then "ready".
var LINES = { first: [10, 11], second: [15, 16], third: [20, 21], drive: [25, 26] };

var sink = 0;
var limit = 40;

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

console.log(JSON.stringify(LINES) + '\nready');
drive('x' + process.pid);
