'use strict';
// Work of which the program knows the split: 1 part in `alpha`, 2 in `beta`, 2 and 3 on two lines of
// `gamma`, all of it inlined into `outer`. Each step waits for the one before it, so time is steps.
const STEPS = 400;

function alpha(x) {
  for (let i = 0; i < STEPS; i++) x = (Math.imul(x, 31) + i) | 0; // 1 alpha
  return x;
}

function beta(x) {
  for (let i = 0; i < STEPS * 2; i++) x = (Math.imul(x, 33) + i) | 0; // 2 beta
  return x;
}

function gamma(x) {
  for (let i = 0; i < STEPS * 2; i++) x = (Math.imul(x, 37) + i) | 0; // 2 gamma
  for (let i = 0; i < STEPS * 3; i++) x = (Math.imul(x, 41) + i) | 0; // 3 gamma
  return x;
}

function outer(x) {
  const a = alpha(x);
  const b = beta(a);
  return gamma(b) ^ a;
}

let sink = 1;
const isWarm = Date.now() + 1500;
let isReady = false;
function drive() {
  for (let i = 0; i < 2000; i++) sink = outer(sink);
  if (!isReady && Date.now() > isWarm) {
    isReady = true;
    console.log('ready');
  }
  setImmediate(drive);
}
drive();
