'use strict';
// What stacks.js is, for Node.js 0.10 to 11, in the JavaScript of that time. Prints its own stack
// as V8 sees it (one line of JSON, innermost first: [name, file, line, column, is V8's own]), then
// "ready", then works on the same line until it is killed.
var crypto = require('crypto');
var fs = require('fs');
var vm = require('vm');

Error.stackTraceLimit = Infinity;

function say(text) {
  // Node 4.0 has the Buffer.from of typed arrays.
  var bytes = Buffer.alloc ? Buffer.from(text) : new Buffer(text);
  for (var at = 0; at < bytes.length;) at += fs.writeSync(1, bytes, at, bytes.length - at, null);
}

function announce() {
  var before = Error.prepareStackTrace;
  Error.prepareStackTrace = function (_, sites) { return sites; };
  var sites = new Error().stack.slice(1);
  Error.prepareStackTrace = before;
  say(JSON.stringify(sites.map(function (site) {
    return [
      site.getFunctionName(),
      site.getFileName() || null,
      site.getLineNumber(),
      site.getColumnNumber(),
      site.isNative(),
    ];
  })) + '\nready\n');
}

var list = [];
for (var i = 0; i < 2000; i++) list.push({ id: i, name: 'n' + i });
var text = JSON.stringify(list);
var block = crypto.randomBytes(1 << 20);
var subject = new Array(24).join('a');
var sink = 0;

// What the innermost function does, forever. One line each: announce and work are the same line.
var leaves = {
  js: function js() { announce(); for (;;) { for (var i = 0; i < 1e6; i++) sink = (sink * 31 + i) | 0; } },
  json: function json() { announce(); for (;;) sink += JSON.parse(text).length; },
  crypto: function hash() { announce(); for (;;) sink += crypto.createHash('sha1').update(block).digest('hex').length; },
  fs: function read() { announce(); for (;;) sink += fs.readFileSync(__filename).length; },
  regexp: function regexp() { announce(); for (;;) sink += /(a|aa)+$b/.test(subject) ? 1 : 0; },
  gc: function gc() { announce(); for (var kept = [];;) sink += (kept[sink % 5000] = [sink, { i: [sink] }, 'x' + sink]).length; },
  strings: function strings() { announce(); for (;;) for (var i = 0; i < 300; i++) sink += ('a' + i).split('').reverse().join('') === 'a' ? 1 : 0; },
};

var leaf = leaves.js;

function inner() {
  return leaf() + 1;
}

function middle() {
  var before = sink;
  return inner() +
    before;
}

function Base(extra) {
  this.extra = extra;
  this.value =
    middle();
}

Object.defineProperty(Base.prototype, 'computed', {
  get: function computed() { return middle(); },
});

function recurse(depth) {
  if (depth === 0) return middle();
  return recurse(depth - 1) + 1;
}

var scenarios = {
  plain: function () { return middle(); },
  sort: function () { return [3, 1, 2].sort(function compare(a, b) { return middle() + a - b; }); },
  each: function () { [1].forEach(function each() { [1].map(function () { return middle(); }); }); },
  reduce: function () { return [1, 2].reduce(function (sum) { return sum + middle(); }, 0); },
  replace: function () { return 'abc'.replace(/b/, function replacer() { return middle(); }); },
  reviver: function () { return JSON.parse('[1]', function reviver() { return middle(); }); },
  tojson: function () { return JSON.stringify({ toJSON: function toJSON() { return middle(); } }); },
  construct: function () { return new Base(); },
  construct_many: function () { return new Base(1, 2, 3); },
  adapted: function () { return middle(1, 2, 3); },
  getter: function () { return Object.create(Base.prototype).computed; },
  recursion: function () { return recurse(500); },
  evaluated: function () { return eval('(function fromEval() {\n  return middle();\n})()'); },
  compiled: function () { return new Function('f', 'return f();')(middle); },
  contextified: function () { return vm.runInThisContext('(function inContext(f) {\n return f(); })', 'virtual.js')(middle); },
  emitted: function () {
    var EventEmitter = require('events').EventEmitter;
    var emitter = new EventEmitter();
    emitter.on('event', function onEvent() { middle(); });
    emitter.emit('event');
  },
  timer: function () { setTimeout(function onTimeout() { middle(); }, 1); },
  tick: function () { process.nextTick(function onTick() { middle(); }); },
  applied: function () { return middle.apply(null, [1, 2, 3]); },
  bound: function () { return middle.bind(null, 1)(2); },
  caught: function () { try { return middle(); } finally { sink++; } },
};

leaf = leaves[process.argv[3] || 'js'];
scenarios[process.argv[2] || 'plain']();
