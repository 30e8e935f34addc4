// ECMAScript modules. Runs on Node.js 12.17 and later.
import harness from './harness.js';
import byDefault, { exported, indirectly } from './exports.mjs';

const { test, spin } = harness;

test('exported > default', () => exported(byDefault));
test('indirectly > exported > local', () => indirectly(local));
function local() { return spin(); } // local

test('afterImport', () => { afterImport(); });
async function afterImport() {
  await import('./exports.mjs');
  spin(); // afterImport
}

test('inClass', () => new Exported().inClass());
export class Exported {
  inClass() { return spin(); } // inClass
}

harness.start();
