'use strict';
// Runs `spin` in an optimized `outer`, called where it says "here", the code of which has been thrown
// away meanwhile: `outer` is to be deoptimized as soon as it is returned to. argv[2] names the
// compiler. Needs --allow-natives-syntax.
function spin(ms) {
  const end = Date.now() + ms;
  let turns = 0;
  while (Date.now() < end) turns++;
  return turns;
}

function small(x) {
  if (x > 1e15) throw new Error('large');
  return x * 3 + 1;
}

function middle(last) {
  if (last) {
    %DeoptimizeFunction(outer);
    console.log('ready');
    for (;;) spin(1000);
  }
  return 1;
}
%NeverOptimizeFunction(middle);

function outer(last) {
  let sum = small(2);
  sum += middle(last); // here
  sum += small(sum);
  sum += small(sum + 1);
  return sum;
}

// Not every V8 has these.
const has = (name) => {
  try {
    return new Function('f', '%' + name + '(f)');
  } catch (error) {
    return () => undefined;
  }
};
has('PrepareFunctionForOptimization')(outer);
for (let turn = 0; turn < 100; turn++) outer(false);
has(process.argv[2] === 'maglev' ? 'OptimizeMaglevOnNextCall' : 'OptimizeFunctionOnNextCall')(outer);
outer(false);
outer(true);
