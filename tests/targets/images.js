'use strict';
// Functions of many forms and tiers, inlined ones, builtins, regular expressions and C++, under
// `work`. Runs on Node.js 10 and later.
const text = JSON.stringify(Array.from({ length: 200 }, (_, i) => ({ i, name: `näme${i}` })));
const subject = 'a'.repeat(18);
const compiled = new Function('x', 'return x * 3 + 1;');
const evaluated = eval('(function evaluated(x) { return compiled(x) + 1; })');
class Shape {
  constructor(size) { this.size = size; }
  get area() { return this.size * evaluated(this.size); }
}
function* generating(n) { for (let i = 0; i < n; i++) yield new Shape(i).area; }
function compare(a, b) { return b - a; }
function sorting() { return [...generating(300)].sort(compare).map((x) => x | 0).length; }
function recursive(n) { return n ? recursive(n - 1) + 1 : sorting(); }
function work() {
  let sum = recursive(20);
  sum += JSON.parse(text, (key, value) => (key === 'i' ? value + 1 : value)).length;
  sum += /(a|aa)+$b/.test(subject) ? 1 : 0;
  sum += text.replace(/näme\d/g, (found) => found.length).length;
  return sum;
}
function drive() {
  for (let i = 0; i < 3; i++) work();
  setImmediate(drive);
}
for (const end = Date.now() + 300; Date.now() < end;) work();
console.log('ready');
drive();
