'use strict';
// Runs the cases of a corpus program on request, and writes down where and when it stood still.
//
//   test('outer > inner', body)       body ends up in `spin`, called from inner, called from outer
//   test(18, 'outer > inner', body)   the same, from Node.js 18 on
//
// The title is the table of what is true: the names of the script's functions between `body` and
// `spin`, root first. Where they are executing is said by a trailing comment with their names.
// stdin: a JSON list of titles runs these cases, then prints "done"; an empty line ends us.
// argv[2]: the file to which each stop is written, one line of JSON: title, the clock at its start
// and end, and the stack as V8 sees it, innermost first: [name, file, line, column].
// Runs on Node.js 0.10 and later.
var fs = require('fs');

var HOT_MS = 8;
var SPIN_MS = 12;
var major = Number(process.version.slice(1).split('.')[0]);
var cases = {};
var turns = 0;
var isMeasuring = false;
var running = '';
var sites = null;
var started = process.hrtime(); // so that it is compiled when we stop the clock
var output = process.argv[2];

Error.stackTraceLimit = Infinity;

exports.test = function (since, title, body) {
  if (typeof since === 'string') {
    body = title;
    title = since;
    since = 0;
  }
  if (since <= major) cases[title] = body;
};

exports.spin = function spin() {
  begin();
  for (var end = Date.now() + (isMeasuring ? SPIN_MS : 0), x = 1; Date.now() < end;) { // spin
    for (var i = 0; i < 2000; i++) x = (x * 31 + i) | 0; // spin
  }
  finish();
  return 1;
};

function begin() {
  turns++;
  if (!isMeasuring && turns % 64 !== 1) return;
  var before = Error.prepareStackTrace;
  Error.prepareStackTrace = function (_, found) { return found; };
  sites = new Error().stack;
  Error.prepareStackTrace = before;
  started = process.hrtime();
}

function finish() {
  if (!isMeasuring) return;
  var ended = process.hrtime();
  var stack = [];
  for (var i = 2; i < sites.length; i++) {
    var site = sites[i];
    if (site.isAsync && site.isAsync()) continue;
    stack.push([
      site.getFunctionName(), site.getFileName() || null,
      site.getLineNumber(), site.getColumnNumber(),
    ]);
  }
  var record = { title: running, start: started, end: ended, stack: stack };
  var line = JSON.stringify(record) + '\n';
  fs.appendFileSync(output, line);
}

// So that it is compiled when a stop ends.
finish();

// Each case once as it is, then until it is hot, then again.
function runAll(titles, done) {
  var todo = titles.slice();
  function next() {
    if (!todo.length) return done();
    running = todo.shift();
    once(true, function () {
      var end = Date.now() + HOT_MS;
      var count = 0;
      (function again() {
        if (Date.now() < end && count++ < 20000) return once(false, again);
        once(true, next);
      })();
    });
  }
  next();
}

var depth = 0;

function once(measure, then) {
  var before = turns;
  isMeasuring = measure;
  cases[running]();
  var waited = 0;
  (function wait() {
    if (turns > before) {
      // Not from the frame of the case, and not deeper and deeper.
      if (depth++ % 50) return then();
      return setTimeout(then, 0);
    }
    if (++waited > 10000) throw new Error('spin was not called: ' + running);
    setTimeout(wait, 0);
  })();
}

// Takes orders from stdin; `run` carries them out.
exports.listen = function (titles, run) {
  var text = '';
  process.stdin.setEncoding('utf8');
  process.stdin.on('data', function (data) {
    text += data;
    var lines = text.split('\n');
    text = lines.pop();
    lines.forEach(function (line) {
      if (!line) return process.exit(0);
      run(JSON.parse(line), function () { process.stdout.write('done\n'); });
    });
  });
  process.stdout.write(JSON.stringify(titles) + '\nready\n');
};

exports.setOutput = function (path) { output = path; };
exports.run = runAll;
exports.titles = function () { return Object.keys(cases); };
exports.start = function () { exports.listen(exports.titles(), runAll); };
