'use strict';
// Makes garbage, some of which lives for a while, between other work; profiles itself on request.
const { repeat } = require('./programs/profiled');

let old = [];
let sink = 0;

function allocate() {
  const made = [];
  for (let i = 0; i < 20000; i++) made.push({ i, next: made[i - 1], text: `t${i & 15}` });
  old.push(made);
  if (old.length > 6) old = [];
}

function compute() {
  for (let i = 0; i < 4e5; i++) sink = (Math.imul(sink, 31) + i) | 0;
}

repeat(() => {
  allocate();
  compute();
});
