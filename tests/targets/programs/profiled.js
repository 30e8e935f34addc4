'use strict';
// Repeats a piece of work for ever, and takes V8's own CPU profile of whole turns of it on request.
// stdin: "profile <ms> <file>" writes a .cpuprofile and prints "profiled"; "watch <ms>" prints
// "watched <from> <to>" (ns of CLOCK_MONOTONIC). Either begins with a turn and ends with one, when
// the main thread has had <ms> of CPU time. Closing stdin ends us.
// The module with the packages is found through NODE_PATH. Runs on Node.js 12 and later.
const fs = require('fs');
const inspector = require('inspector');
const readline = require('readline');

const INTERVAL_US = 1000;
const WARM_MS = 2500;

// This process's first thread alone: V8's helpers need more or less of the CPU as it is free.
function cpuMs() {
  const stat = fs.readFileSync('/proc/self/task/' + process.pid + '/schedstat', 'latin1');
  return Number(stat.split(' ')[0]) / 1e6;
}

function startProfile(file) {
  const session = new inspector.Session();
  session.connect();
  session.post('Profiler.enable');
  session.post('Profiler.setSamplingInterval', { interval: INTERVAL_US });
  session.post('Profiler.start');
  return () => session.post('Profiler.stop', (error, result) => {
    session.disconnect();
    fs.writeFileSync(file, JSON.stringify(result.profile));
    console.log('profiled');
  });
}

function startWatch() {
  const from = process.hrtime.bigint();
  return () => console.log(`watched ${from} ${process.hrtime.bigint()}`);
}

// Calls `turn` over and over; it may return a promise. Ready after `warmMs` of CPU time.
exports.repeat = async function repeat(turn, warmMs = WARM_MS) {
  const asked = [];
  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', (line) => asked.push(line.split(' ')));
  lines.on('close', () => process.exit(0));
  let stop = () => console.log('ready');
  let end = warmMs;
  for (;;) {
    await turn();
    await new Promise(setImmediate);
    if (stop && cpuMs() >= end) {
      stop();
      stop = undefined;
    }
    if (!stop && asked.length) {
      const [what, ms, file] = asked.shift();
      stop = what === 'profile' ? startProfile(file) : startWatch();
      end = cpuMs() + Number(ms);
    }
  }
};
