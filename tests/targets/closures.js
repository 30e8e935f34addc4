'use strict';
// alpha is called by viaAlpha only, and beta by viaBeta only; closures die young and are moved.
let kept = [];
function makeAlpha(n) {
  return function alpha() { let s = n; for (let i = 0; i < 300; i++) s += i % 7; return s; };
}
function makeBeta(n) {
  return function beta() { let s = n; for (let i = 0; i < 300; i++) s += i % 5; return s; };
}
function viaAlpha(f) { return f() + 1; }
function viaBeta(f) { return f() + 2; }
function drive() {
  for (;;) {
    kept = [];
    for (let i = 0; i < 2000; i++) {
      const a = makeAlpha(i), b = makeBeta(i);
      kept.push(a, b, { i }, [i]);
      viaAlpha(a);
      viaBeta(b);
    }
    globalThis.gc && gc({ type: 'minor' });
  }
}
console.log('ready');
drive();
