'use strict';
// Asynchronous functions and generators. Runs on Node.js 8 and later, without those of 10.
const harness = require('./harness');
const { test, spin } = harness;
const { promisify } = require('util');

const sleep = promisify(setTimeout);

test('begins > atOnce', () => { begins(); });
async function begins() { return (await atOnce()) + 1; } // begins
async function atOnce() { return spin(); } // atOnce

test('resumes > afterwards', () => { resumes(); });
async function resumes() {
  await null;
  return afterwards() + 1; // resumes
}
function afterwards() { return spin(); } // afterwards

test('afterTimer', () => { afterTimer(); });
async function afterTimer() {
  await sleep(1);
  spin(); // afterTimer
}

test('awaited', () => { awaiting(); });
async function awaiting() { await awaited(); }
async function awaited() {
  await 1;
  return spin(); // awaited
}

test('asyncArrow', () => { asyncArrow(); });
const asyncArrow = async () => {
  await null;
  spin(); // asyncArrow
};

test('asyncMethod > method', () => { new Service().asyncMethod(); });
class Service {
  async asyncMethod() {
    await null;
    return this.method(); // asyncMethod
  }

  method() { return spin(); } // method

  static async fixed() {
    await null;
    spin(); // fixed
  }
}
test('fixed', () => { Service.fixed(); });

test('streaming', () => { consume(new Stream().streaming()); });
class Stream {
  async* streaming() {
    yield 1;
    yield spin(); // streaming
  }
}
async function consume(source) { for await (const x of source) if (!x) return x; }

test('throws > recovers', () => { throws(); });
async function throws() {
  try {
    await Promise.reject(new Error('rejected'));
  } catch (error) {
    recovers(); // throws
  } finally {
    await null;
  }
}
function recovers() { return spin(); } // recovers

test('eventually', () => { eventually(); });
async function eventually() {
  try {
    await null;
  } finally {
    spin(); // eventually
  }
}

test('asyncGenerator', () => { asyncGenerator().next(); });
async function* asyncGenerator() {
  await null;
  yield spin(); // asyncGenerator
}

test('consuming > consumed', () => { consuming(); });
async function consuming() {
  for await (const x of [1, Promise.resolve(2)]) if (x === 2) consumed(x); // consuming
}
function consumed() { spin(); } // consumed

test('nextAsync', () => { pullAsync(); });
const source = {
  [Symbol.asyncIterator]: () => ({
    next: async function nextAsync() { spin(); return { done: true }; }, // nextAsync
  }),
};
async function pullAsync() { for await (const x of source) return x; }

test(10, 'settled', () => { Promise.resolve().finally(function settled() { spin(); }); }); // settled

test('oneOfAll', () => { Promise.all([oneOfAll(), sleep(1)]); });
async function oneOfAll() { await null; spin(); } // oneOfAll

test('micro > inMicrotask', () => { Promise.resolve().then(micro); });
function micro() { inMicrotask(); } // micro
function inMicrotask() { spin(); } // inMicrotask

test('callbackified', () => {
  require('util').callbackify(async () => 1)(function callbackified() { spin(); }); // callbackified
});

test(12, 'queued', () => queueMicrotask(function queued() { spin(); })); // queued

test(12, 'onData', () => { readable().on('data', function onData() { spin(); }); }); // onData
const readable = () => require('stream').Readable.from(['x']);

test('awaitsDefault > defaulted', () => { awaitsDefault(); });
async function awaitsDefault(x = defaulted()) { await x; } // awaitsDefault
function defaulted() { return spin(); } // defaulted

harness.start();
