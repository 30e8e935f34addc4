'use strict';
// Steady work in functions of known names; V8's own CPU profile of it on request.
const { repeat } = require('./programs/profiled');

let sink = 0;

function fibonacci(n) {
  return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

class Matrix {
  constructor(size, seed) {
    this.size = size;
    this.cells = new Float64Array(size * size).map((_, i) => (i * seed) % 17);
  }

  multiply(other) {
    const { size, cells } = this;
    const out = new Matrix(size, 0);
    for (let i = 0; i < size; i++) {
      for (let j = 0; j < size; j++) {
        let sum = 0;
        for (let k = 0; k < size; k++) sum += cells[i * size + k] * other.cells[k * size + j];
        out.cells[i * size + j] = sum;
      }
    }
    return out;
  }
}

function sieve(limit) {
  const composite = new Uint8Array(limit);
  let count = 0;
  for (let i = 2; i < limit; i++) {
    if (composite[i]) continue;
    count++;
    for (let j = i * 2; j < limit; j += i) composite[j] = 1;
  }
  return count;
}

function hashText(text) {
  let hash = 5381;
  for (let i = 0; i < text.length; i++) hash = ((hash * 33) ^ text.charCodeAt(i)) | 0;
  return hash;
}

function byPriority(a, b) {
  return a.priority - b.priority || a.id - b.id;
}

function makeTasks(count) {
  const tasks = [];
  for (let id = 0; id < count; id++) tasks.push({ id, priority: (id * 7919) % 101 });
  return tasks;
}

function schedule() {
  return makeTasks(600).sort(byPriority)[0].id;
}

const TEXT = 'the quick brown fox jumps over the lazy dog '.repeat(200);
const LEFT = new Matrix(24, 3);
const RIGHT = new Matrix(24, 5);

function round() {
  sink += fibonacci(20);
  sink += LEFT.multiply(RIGHT).cells[5];
  sink += sieve(20000);
  sink += hashText(TEXT);
  sink += schedule();
}

repeat(() => {
  for (let i = 0; i < 100; i++) round();
});
