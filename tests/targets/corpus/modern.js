'use strict';
// Private names, fields and static blocks, and newer callbacks. Runs on Node.js 12 and later, without
// what those cannot parse.
const harness = require('./harness');
const { test, spin } = harness;

test('opens > #hidden', () => new Vault().opens());
test('get #secret', () => new Vault().reads());
test('set #secret', () => new Vault().writes());
test('#fixed', () => Vault.callsFixed());
test('awaitsHidden', () => { new Vault().awaitsHidden(); });
test('yields > #generated', () => new Vault().yields());
class Vault {
  opens() { return this.#hidden(); } // opens

  #hidden() { return spin(); } // #hidden

  get #secret() { return spin(); } // get #secret

  set #secret(value) { spin(value); } // set #secret

  reads() { return this.#secret; }

  writes() { this.#secret = 1; }

  static #fixed() { return spin(); } // #fixed

  static callsFixed() { return Vault.#fixed(); }

  async awaitsHidden() {
    await null;
    return this.#has(this) && spin(); // awaitsHidden
  }

  #has(object) { return #secret in object || true; }

  yields() { return [...this.#generated()]; } // yields

  *#generated() { yield spin(); } // #generated
}
test('Field > <instance_members_initializer>|Field > initial', () => new Field());
class Field { // Field
  value = initial(); // Field, <instance_members_initializer>
}
function initial() { return spin(); } // initial

test('arrowField', () => new ArrowField().arrowField());
class ArrowField { arrowField = () => spin(); } // arrowField

test('#privateArrow', () => new PrivateArrow().run());
class PrivateArrow {
  #privateArrow = () => spin(); // #privateArrow

  run() { return this.#privateArrow(); }
}

test('declaring > <static_initializer>|Declared > inBlock', () => declaring());
function declaring() {
  return class Declared { // declaring
    static { inBlock(); } // <static_initializer>
  };
}
function inBlock() { spin(); } // inBlock

test('accessing > get fixed', () => accessing());
class Fixed { static get fixed() { return spin(); } } // get fixed
function accessing() { return Fixed.fixed; } // accessing

test('optional > chained', () => optional({ f: { chained } }));
function optional(object) { return object?.f?.chained?.(1) ?? 0; } // optional
function chained() { return spin(); } // chained

test('assigning > assigned', () => assigning({}));
function assigning(object) { object.x ??= assigned(); return object; } // assigning
function assigned() { return spin(); } // assigned

test(16, 'replaceEvery > every', () => replaceEvery());
function replaceEvery() { return 'b'.replaceAll('b', every); } // replaceEvery
function every() { return `${spin()}`; } // every

test('flattening > flattened', () => flattening());
function flattening() { return [1].flatMap(flattened); } // flattening
function flattened() { return spin(); } // flattened

test(16, 'anyOf', () => { Promise.any([Promise.resolve()]).then(function anyOf() { spin(); }); }); // anyOf

test(18, 'findingLast > found', () => findingLast());
function findingLast() { return [1].findLast(found); } // findingLast
function found() { return spin() > 0; } // found

test(20, 'sorted > comparing', () => sorted());
function sorted() { return [2, 1].toSorted(comparing); } // sorted
function comparing(a, b) { spin(); return a - b; } // comparing

test(22, 'lazily > mappedLazily', () => lazily());
function lazily() { return [1].values().map(mappedLazily).toArray(); } // lazily
function mappedLazily() { return spin(); } // mappedLazily

test(22, 'grouping > grouped', () => grouping());
function grouping() { return Object.groupBy([1], grouped); } // grouping
function grouped() { return spin(); } // grouped

test('labelled > 名前 > 𠮷', () => labelled());
function labelled() { return names.名前(); } // labelled
const names = {
  名前() { return 𠮷(); }, // 名前
};
function 𠮷() { return spin(); } // 𠮷

test(24, 'disposing > dispose', () => disposing());
const disposing = major(24)
  ? new Function('spin', `return function disposing() {
    using x = { [Symbol.dispose]: function dispose() { spin(); } };
  }`)(spin)
  : null;
function major(least) { return Number(process.versions.node.split('.')[0]) >= least; }

harness.start();
