'use strict';
// Every form of function that Node.js 0.10 knows, and every way to be called back.
var harness = require('./harness');
var vm = require('vm');
var test = harness.test;
var spin = harness.spin;

// Declarations and expressions.

test('declared > expressed', function () { declared(); });
function declared() {
  return expressed() + 1; // declared
}
var expressed = function expressed() {
  var text = 'on the way';
  return spin() + text.length; // expressed
};

test('assigned > property|holder.property', function () { assigned(); });
var assigned = function () { return holder.property(); }; // assigned
var holder = {
  property: function () {
    return spin(); // property
  },
};

test('Deep.inner.inferred', function () { Deep.inner.inferred(); });
var Deep = { inner: {} };
Deep.inner.inferred = function () { return spin(); }; // Deep.inner.inferred

test('Shape > Shape.area', function () { return new Shape().size; });
function Shape() {
  this.size = this.area(); // Shape
}
Shape.prototype.area = function () {
  var half = 2;
  return half + spin(); // Shape.area
};

test('hoisting > hoisted', function () { hoisting(); });
function hoisting() {
  return hoisted(); // hoisting
  function hoisted() { return spin(); } // hoisted
}

test('makeCounter > counting', function () { makeCounter(3); });
function makeCounter(start) {
  var count = start;
  function counting() { count++; return spin() + count; } // counting
  return counting(); // makeCounter
}

test('immediate', function () {
  (function immediate() { return spin(); })(); // immediate
});

// Calls.

test('called > inherited', function () { called.call({ x: 1 }, 2); });
function called() {
  return inherited.apply(this, arguments); // called
}
function inherited(a, b, c) { return [a, b, c].length + spin(); } // inherited

test('tooFew > tooMany', function () { tooFew(); });
function tooFew(a, b, c, d) { return tooMany(1, 2, 3, 4, 5, a, b, c, d); } // tooFew
function tooMany(a) { return a + spin(); } // tooMany

test('bound', function () { boundFunction(2); });
var boundFunction = function bound(a, b) { return a + b + spin(); }.bind(null, 1); // bound

test('even > odd > even > odd > even > bottom', function () { even(3); });
function even(n) { return n < 0 ? bottom() : odd(n - 1) + 1; } // even
function odd(n) { return n < 0 ? bottom() : even(n - 1) + 1; } // odd
function bottom() { return spin(); } // bottom

test('NewTarget', function () { new NewTarget(1, 2); });
function NewTarget(a) { this.value = a + spin(); } // NewTarget

test('recursing > recursive*2001 > atBottom', function () { recursing(); });
function recursing() { return recursive(2000); } // recursing
function recursive(n) { return n ? recursive(n - 1) + 1 : atBottom(); } // recursive
function atBottom() { return spin(); } // atBottom

// Properties.

test('reading > get measured|measured', function () { reading(); });
var accessors = {
  get measured() { return spin(); }, // get measured
  set assignedTo(value) { spin(value); }, // set assignedTo
};
function reading() { return accessors.measured; } // reading

test('writing > set assignedTo|assignedTo', function () { writing(); });
function writing() { accessors.assignedTo = 1; } // writing

test('definedGetter', function () { return withAccessor.defined; });
var withAccessor = Object.defineProperty({}, 'defined', {
  get: function definedGetter() { return spin(); }, // definedGetter
});

test('adding > valueOf', function () { adding(); });
var numeric = {
  valueOf: function valueOf() { return spin(); }, // valueOf
};
function adding() { return numeric + 1; } // adding

test('joining > toString', function () { joining(); });
var textual = {
  toString: function toString() { return '' + spin(); }, // toString
};
function joining() { return [textual, textual].join('-'); } // joining

// Callbacks of builtins.

test('sorting > compare', function () { sorting(); });
var hasCompared = false;
function sorting() { hasCompared = false; [3, 1, 2].sort(compare); } // sorting
function compare(a, b) {
  if (!hasCompared) { hasCompared = true; spin(); } // compare
  return a - b;
}

test('mapping > mapped > each', function () { mapping(); });
function mapping() {
  return [1].map(function mapped(x) { // mapping
    [x].forEach(each); // mapped
    return x;
  });
}
function each() { return spin(); } // each

test('reducer', function () { [1, 2].reduce(function reducer(sum) { return sum + spin(); }, 0); }); // reducer

test('filtering > some > every', function () { [1].filter(filtering); });
function filtering() { return [1].some(some); } // filtering
function some() { return [1].every(every); } // some
function every() { return spin() > 0; } // every

test('replacing > replacer', function () { replacing(); });
function replacing() { return 'abc'.replace(/b/, replacer); } // replacing
function replacer(match) { return match + spin(); } // replacer

test('stringifying > toJSON', function () { stringifying(); });
function stringifying() { return JSON.stringify({ a: { toJSON: toJSON } }); } // stringifying
function toJSON() { return spin(); } // toJSON

test('jsonReplacer', function () { JSON.stringify(1, jsonReplacer); });
function jsonReplacer(key, value) { return value + spin(); } // jsonReplacer

test('reviver', function () { JSON.parse('1', reviver); });
function reviver(key, value) { return value + spin(); } // reviver

// Control flow.

test('trying > throwing', function () { trying(); });
function trying() {
  try {
    throwing(); // trying
  } catch (error) {
    return error.message;
  }
}
function throwing() {
  spin(); // throwing
  throw new Error('thrown');
}

test('catching', function () { catching(); });
function catching() {
  try {
    throw new Error('thrown');
  } catch (error) {
    return spin(); // catching
  }
}

test('finishing', function () { finishing(); });
function finishing() {
  try {
    return 1;
  } finally {
    spin(); // finishing
  }
}

test('switching', function () { switching('b'); });
function switching(x) {
  var i = 0;
  outer: for (;;) {
    switch (x) {
      case 'a': i += 1; break;
      case 'b':
        i += spin(); // switching
        break outer;
      default: i += 2;
    }
  }
  return i;
}

test('continuing', function () { continuing(1, 2); });
function continuing(a, b) {
  return a
    + b
    + (a > b
      ? 1
      : spin()); // continuing
}

test('iterating', function () { iterating({ a: 1 }); });
function iterating(object) {
  for (var key in object) object[key] = spin(); // iterating
}

// Code made at run time.

test('evaluating > (anonymous) > evaluated', function () { evaluating(); });
function evaluating() {
  return eval('(function evaluated() {\n\n return spin(); })()'); // evaluating
}
test('globalEvaluation > (anonymous) > globalEvaluated', function () { globalEvaluation(); });
global.corpusSpin = spin;
var indirect = eval;
function globalEvaluation() {
  return indirect('(function globalEvaluated() {\n return corpusSpin(); })()'); // globalEvaluation
}

test('(anonymous) > fromCompiled', function () { compiled(fromCompiled); });
function fromCompiled() { return spin(); } // fromCompiled
var compiled = new Function('f', '/* one */\nreturn f();');

test('contextified', function () { inContext(spin); });
var inContext = vm.runInThisContext(
  '(function contextified(f) {\n\n  return f(); })', { filename: 'virtual.js', lineOffset: 40, columnOffset: 7 });

test('elsewhere', function () { inOther(spin); });
var inOther = vm.runInNewContext('(function elsewhere(f) { return f(); })', {}, 'elsewhere.js');

test('(anonymous) > whileLoading', function () {
  delete require.cache[required];
  require(required);
});
var required = require.resolve('./required');

test('(anonymous) > fromNested', function () { nested(fromNested); });
function fromNested() { return spin(); } // fromNested
var nested = eval('(function () { return function (f) { return f(); }; })()');

// Later turns of the event loop.

test('onTimeout', function () { setTimeout(function onTimeout() { spin(); }, 1); }); // onTimeout
test('onImmediate', function () { setImmediate(function onImmediate() { spin(); }); }); // onImmediate
test('onTick', function () { process.nextTick(function onTick() { spin(); }); }); // onTick
test('onInterval', function () {
  var timer = setInterval(function onInterval() { clearInterval(timer); spin(); }, 1); // onInterval
});
test('onEvent', function () { emitter.emit('event', 1, 2); });
var emitter = new (require('events').EventEmitter)();
emitter.on('event', function onEvent() { spin(); }); // onEvent
test('onStat', function () { require('fs').stat(__filename, function onStat() { spin(); }); }); // onStat
test('onDeflate', function () { require('zlib').deflate('x', function onDeflate() { spin(); }); }); // onDeflate
test('onKey', function () { require('crypto').randomBytes(8, function onKey() { spin(); }); }); // onKey
test('onLookup', function () { require('dns').lookup('127.0.0.1', function onLookup() { spin(); }); }); // onLookup

// Names.

test('naïve > функция > 関数 > $_$', function () { naïve(); });
function naïve() { return функция(); } // naïve
function функция() { return 関数(); } // функция
function 関数() { return $_$(); } // 関数
function $_$() { return spin(); } // $_$

test('runLong > long_abcabc…', function () { runLong(); });
var LONG = 'long_' + new Array(300).join('abc');
var longNamed = new Function('spin', 'return function ' + LONG + '() { return spin(); };')(spin);
function runLong() { return longNamed(); } // runLong

test('prototype > constructor > odd2 > __proto__', function () { odd1.prototype(); });
var odd1 = {
  prototype: function prototype() { return odd1.constructor(); }, // prototype
  constructor: function constructor() { return odd2(); }, // constructor
};
function odd2() { return (function __proto__() { return spin(); })(); } // odd2, __proto__

harness.start();
