'use strict';
// Stays deep in one known stack. argv[2] names the scenario. The innermost function prints its own
// stack as V8 sees it (one line of JSON, innermost first: [name, file, line, column]), then "ready",
// then works on the same line until it is killed. Runs on Node.js 12 and later.
const crypto = require('crypto');
const fs = require('fs');
const vm = require('vm');
const zlib = require('zlib');

Error.stackTraceLimit = Infinity;

function announce() {
  const before = Error.prepareStackTrace;
  Error.prepareStackTrace = (_, sites) => sites;
  const sites = new Error().stack.slice(1).filter((site) => !(site.isAsync && site.isAsync()));
  Error.prepareStackTrace = before;
  const stack = sites.map((site) => [
    site.getFunctionName(),
    site.getFileName() || null,
    site.getLineNumber(),
    site.getColumnNumber(),
  ]);
  fs.writeSync(1, JSON.stringify(stack) + '\nready\n');
}

const text = JSON.stringify(Array.from({ length: 2000 }, (_, i) => ({ id: i, name: `n${i}` })));
const block = crypto.randomBytes(1 << 20);
const subject = 'a'.repeat(24);
const words = Array.from({ length: 300 }, (_, i) => `key${(i * 7919) % 300}`);
let sink = 0;

// What the innermost function does, forever. One line each: announce and work are the same line.
const leaves = {
  js() { announce(); for (;;) { for (let i = 0; i < 1e6; i++) sink = (sink * 31 + i) | 0; } },
  json() { announce(); for (;;) sink += JSON.parse(text).length; },
  crypto() { announce(); for (;;) sink += crypto.pbkdf2Sync('p', 's', 50000, 64, 'sha512').length; },
  zlib() { announce(); for (;;) sink += zlib.deflateSync(block).length; },
  fs() { announce(); for (;;) sink += fs.readFileSync(__filename).length; },
  regexp() { announce(); for (;;) sink += /(a|aa)+$b/.test(subject) ? 1 : 0; },
  gc() { announce(); for (;;) sink += Array.from({ length: 5000 }, (_, i) => ({ i, s: [i] })).length; },
  strings() { announce(); for (;;) for (const a of words) for (const b of words) sink += a + b === b + a ? 1 : 0; },
  sleep() { announce(); for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50); },
};

let leaf = leaves.js;

function inner() {
  return leaf() + 1;
}

function middle() {
  const before = sink;
  return inner() + before;
}

class Base {
  constructor() {
    this.value = middle();
  }
}

class Derived extends Base {
  constructor(extra) {
    super(extra, 1, 2);
    this.extra = extra;
  }

  get computed() {
    return middle();
  }

  static make() {
    return new Derived(3);
  }
}

function recurse(depth) {
  if (depth === 0) return middle();
  return recurse(depth - 1) + 1;
}

async function resumed() {
  await null;
  return middle();
}

async function* generated() {
  await null;
  yield middle();
}

const scenarios = {
  plain: () => middle(),
  sort: () => [3, 1, 2].sort(function compare(a, b) { return middle() + a - b; }),
  map: () => [1].map((x) => [x].forEach(function each() { middle(); })),
  reduce: () => [1, 2].reduce((sum) => sum + middle(), 0),
  replace: () => 'abc'.replace(/b/, function replacer() { return middle(); }),
  reviver: () => JSON.parse('[1]', function reviver() { return middle(); }),
  construct: () => Derived.make(),
  getter: () => Object.create(Derived.prototype).computed,
  recursion: () => recurse(2000),
  resumed: () => { resumed(); },
  generated: () => { generated().next(); },
  evaluated: () => eval('(function fromEval() {\n  return middle();\n})()'),
  compiled: () => new Function('f', 'return f();')(middle),
  contextified: () => vm.runInThisContext('(function inContext(f) {\n return f(); })', {
    filename: 'virtual.js', lineOffset: 10, columnOffset: 5,
  })(middle),
  emitted: () => {
    const EventEmitter = require('events');
    const emitter = new EventEmitter();
    emitter.on('event', function onEvent() { middle(); });
    emitter.emit('event');
  },
  timer: () => { setTimeout(function onTimeout() { middle(); }, 1); },
  module: () => { process.nextTick(function onTick() { middle(); }); },
  applied: () => Reflect.apply(middle, null, [1, 2, 3]),
  bound: () => middle.bind(null, 1)(2),
  proxied: () => new Proxy(middle, {})(),
  tagged: () => (function tag() { return middle(); })`a${1}`,
};

leaf = leaves[process.argv[3] || 'js'];
scenarios[process.argv[2] || 'plain']();
