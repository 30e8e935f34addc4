'use strict';
// Rollup: resolve, parse, analyse, shake and print sixty modules, over and over.
const { rollup } = require('rollup');
const { repeat } = require('./profiled');

const MODULES = 60;
const sources = new Map();
for (let i = 0; i < MODULES; i++) {
  const imported = [i * 2 + 1, i * 2 + 2].filter((j) => j < MODULES);
  sources.set(`m${i}`, `
${imported.map((j) => `import { used as used${j}, Shape as Shape${j} } from 'm${j}';`).join('\n')}
const table = { a: 1, b: [2, 3], c: { d: /x+/g, e: \`t\${${i}}\` } };
export function used(x, { y = 2, ...rest } = {}) {
  let sum = x + y + Object.keys(rest).length;
  for (const [key, value] of Object.entries(table)) sum += key.length * (value ? 1 : ${i});
  ${imported.map((j) => `sum += used${j}(sum) + new Shape${j}(sum).area();`).join('\n  ')}
  return sum > ${i} ? sum : switching(sum);
}
export function unused(a, b) { return a && b ? unused(b, a - 1) : table.b.map((x) => x * a); }
export class Shape {
  constructor(size) { this.size = size; }
  area() { return this.size ** 2; }
  get half() { return this.area() / 2; }
  static of(...sizes) { return sizes.map((size) => new Shape(size)); }
}
function switching(x) {
  switch (x % 3) {
    case 0: return () => x;
    case 1: try { return JSON.parse(x); } catch (error) { return error; }
    default: return async () => { await x; };
  }
}
const dead = unused(${i}, 0);
`);
}

const virtual = {
  name: 'virtual',
  resolveId: (id) => id,
  load: (id) => sources.get(id),
};

repeat(async () => {
  const bundle = await rollup({ input: 'm0', plugins: [virtual], onwarn() {} });
  const { output } = await bundle.generate({ format: 'cjs', sourcemap: true });
  if (!output[0].code.includes('switching')) throw new Error('nothing came out');
});
