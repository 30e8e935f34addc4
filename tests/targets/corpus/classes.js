'use strict';
// What ES2015 and ES2016 added. Runs on Node.js 4 and later, without what those cannot parse.
const harness = require('./harness');
const test = harness.test;
const spin = harness.spin;

test('arrow > shortArrow', () => arrow());
const arrow = () => {
  return shortArrow() + 1; // arrow
};
const shortArrow = () => spin(); // shortArrow

test('Circle > Figure > area', () => new Circle(2));
class Figure {
  constructor(size) {
    this.size = size;
    this.total = this.area(); // Figure
  }

  area() { return spin(); } // area

  static unit() { return Figure.one(); } // unit

  static one() { return spin(); } // one

  get width() { return spin(); } // get width

  set width(value) { spin(value); } // set width
}
class Circle extends Figure {
  constructor(radius, ...rest) {
    super(radius, ...rest); // Circle
    this.radius = radius;
  }
}
test('unit > one', () => Figure.unit());
test('readsWidth > get width', () => readsWidth(Object.create(Figure.prototype)));
const readsWidth = (figure) => figure.width; // readsWidth
test('set width', () => { Object.create(Figure.prototype).width = 1; });

test('Implicit > Implied', () => new Implicit());
class Implied { constructor() { this.x = spin(); } } // Implied
class Implicit extends Implied {} // Implicit

test('ClassName > shown', () => new Expression());
const Expression = class ClassName {
  constructor() { this.shown(); } // ClassName

  shown() { return spin(); } // shown
};

test('superior > override', () => new Lower().superior());
class Upper {
  superior() { return this.override(); } // superior
}
class Lower extends Upper {
  override() { return spin(); } // override
}

test('shorthand > get value|value', () => literal.shorthand());
const literal = {
  shorthand() { return this.value; }, // shorthand
  get value() { return spin(); }, // get value
};

test('withDefault > fallback', () => withDefault());
function withDefault(x = fallback()) { return x; } // withDefault
function fallback() { return spin(); } // fallback

test('destructuring > missing', () => destructuring({}));
function destructuring({ a = missing() }) { return a; } // destructuring
function missing() { return spin(); } // missing

test('listing > absent', () => listing());
function listing() {
  const [first, second = absent()] = [1]; // listing
  return first + second;
}
const absent = function absent() { return spin(); }; // absent

test('variadic > gathered', () => variadic(1, 2, 3));
function variadic(...rest) { return gathered(...rest, ...rest); } // variadic
function gathered(...all) { return all.length + spin(); } // gathered

test('tagging > tag', () => tagging(1));
function tagging(x) { return tag`a${x}b${x}`; } // tagging
function tag(parts, ...values) { return parts.length + values.length + spin(); } // tag

test('interpolating > inserted', () => interpolating());
function interpolating() { return `a${{ toString: inserted }}b`; } // interpolating
function inserted() { return `${spin()}`; } // inserted

test(6, 'converting > primitive', () => converting());
const convertible = { [Symbol.toPrimitive]: function primitive() { return spin(); } }; // primitive
function converting() { return +convertible; } // converting

// Names that are known only at run time: V8 has them in the closure, its profiler and we do not.
// (Before Node 10 it infers the name of some other class from what it parsed last.)

const key = (x) => `computed${x}`;
test('calls > computed1|computed', () => calls());
const computed = { [key(1)]() { return spin(); } }; // computed1
function calls() { return computed.computed1(); } // calls

const symbol = Symbol('described');
test('[described]|symbolic', () => symbolic[symbol]());
const symbolic = { [symbol]() { return spin(); } }; // [described]

test(10, '[inClass]|(anonymous)', () => new Keyed()[inClass]());
const inClass = Symbol('inClass');
class Keyed { [inClass]() { return spin(); } } // [inClass]

test('numbered > 12', () => numbered());
const numbers = { 12() { return spin(); } }; // 12
function numbered() { return numbers[12](); } // numbered

test('quoted > a b: c;d', () => quoted());
const odd = { 'a b: c;d'() { return spin(); } }; // a b: c;d
function quoted() { return odd['a b: c;d'](); } // quoted

// Generators and iterators.

test('driving > generator', () => driving());
function driving() { return [...generator()]; } // driving
function* generator() {
  yield 1;
  yield spin(); // generator
}

test('pulling > delegating > inside', () => pulling());
function pulling() { for (const x of delegating()) return x; } // pulling
function* delegating() { yield* inside(); } // delegating
function* inside() { yield spin(); } // inside

test('looping > next', () => looping());
const iterable = {
  [Symbol.iterator]: () => ({ next() { spin(); return { done: true }; } }), // next
};
function looping() { for (const x of iterable) return x; } // looping

test(6, 'leaving > closing', () => leaving());
const closable = {
  [Symbol.iterator]: () => ({
    next: () => ({ done: false, value: 1 }),
    return: function closing() { spin(); return {}; }, // closing
  }),
};
function leaving() { for (const x of closable) return x; } // leaving

// Proxies and reflection.

test(6, 'reads > get', () => reads());
const handler = {
  get: function get() { return spin(); }, // get
  set: function set() { spin(); return true; }, // set
  has: function has() { return spin() > 0; }, // has
  apply: function apply() { return spin(); }, // apply
  construct: function construct() { spin(); return {}; }, // construct
  deleteProperty: function deleteProperty() { spin(); return true; }, // deleteProperty
  ownKeys: function ownKeys() { spin(); return ['prototype']; }, // ownKeys
};
const proxy = typeof Proxy === 'undefined' ? null : new Proxy(function target() {}, handler);
function reads() { return proxy.anything; } // reads
test(6, 'writes > set', () => writes());
function writes() { proxy.anything = 1; } // writes
test(6, 'asks > has', () => asks());
function asks() { return 'x' in proxy; } // asks
test(6, 'applies > apply', () => applies());
function applies() { return proxy(1); } // applies
test(6, 'constructs > construct', () => constructs());
function constructs() { return new proxy(1); } // constructs
test(6, 'deletes > deleteProperty', () => deletes());
function deletes() { return delete proxy.x; } // deletes
test(6, 'lists > ownKeys', () => lists());
function lists() { return Object.getOwnPropertyNames(proxy); } // lists

test(6, 'reflecting > reflected', () => reflecting());
function reflecting() { return Reflect.apply(reflected, null, [1]); } // reflecting
function reflected(x) { return x + spin(); } // reflected

test(6, 'building > Built', () => building());
function building() { return Reflect.construct(Built, [1], Object); } // building
class Built { constructor(x) { this.x = x + spin(); } } // Built

// Collections, symbols, promises.

test('walking > visited', () => walking());
function walking() { new Map([[1, 2]]).forEach(visited); } // walking
function visited() { spin(); } // visited

test('creating > filled', () => creating());
function creating() { return Array.from({ length: 1 }, filled); } // creating
function filled() { return spin(); } // filled

test('typed', () => new Float64Array(1).map(function typed() { return spin(); })); // typed

test(6, 'splitting > splitter', () => splitting());
const splits = { [Symbol.split]: function splitter() { return spin(); } }; // splitter
function splitting() { return 'ab'.split(splits); } // splitting

test('executing > executor', () => executing());
function executing() { return new Promise(executor); } // executing
function executor(resolve) { resolve(spin()); } // executor

test('reacting', () => { Promise.resolve(1).then(function reacting() { spin(); }); }); // reacting
test('rejected', () => { Promise.reject(1).catch(function rejected() { spin(); }); }); // rejected
test(6, 'thenable', () => { Promise.resolve({ then: function thenable() { spin(); } }); }); // thenable
test('chained', () => { Promise.resolve().then(() => 1).then(function chained() { spin(); }); }); // chained

// Scopes.

test('closing over|f.closing over > captured', () => closures[2]());
const closures = [0, 1, 2].map((i) => { // closures
  const f = { 'closing over': () => captured(i) }; // closing over
  return f['closing over'];
});
function captured(i) { return i + spin(); } // captured

test('blocked', () => blocked());
function blocked() {
  let result = 0;
  {
    const x = 1;
    for (let i = 0; i < 1; i++) result += x + (() => i)() + spin(); // blocked
  }
  return result;
}

test('ungrouped > many', () => ungrouped());
const ungrouped = () => many(); // ungrouped
{
  // More captured variables than a scope keeps in a list.
  const declared = Array.from({ length: 90 }, (_, i) => `let v${i} = ${i};`).join(' ');
  const used = Array.from({ length: 90 }, (_, i) => `v${i}`).join(' + ');
  const source = `"use strict"; ${declared} return function many() { return spin() + (() => ${used})(); };`;
  var many = new Function('spin', source)(spin);
}

harness.start();
