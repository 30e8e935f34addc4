'use strict';
// Repeats a piece of work for ever, and takes V8's own CPU profile of it on request.
// stdin: "profile <ms> <file>" writes a .cpuprofile and prints "profiled"; closing stdin ends us.
// The module with the packages is found through NODE_PATH. Runs on Node.js 12 and later.
const fs = require('fs');
const inspector = require('inspector');
const readline = require('readline');

const INTERVAL_US = 1000;
const WARM_MS = 3000;

function profile(ms, file) {
  const session = new inspector.Session();
  session.connect();
  session.post('Profiler.enable', () => {
    session.post('Profiler.setSamplingInterval', { interval: INTERVAL_US }, () => {
      session.post('Profiler.start', () => {
        setTimeout(() => {
          session.post('Profiler.stop', (error, result) => {
            session.disconnect();
            fs.writeFileSync(file, JSON.stringify(result.profile));
            console.log('profiled');
          });
        }, ms);
      });
    });
  });
}

// Calls `turn` over and over; it may return a promise.
exports.repeat = function repeat(turn) {
  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    const [, ms, file] = line.split(' ');
    profile(Number(ms), file);
  });
  lines.on('close', () => process.exit(0));
  (async () => {
    for (;;) {
      await turn();
      await new Promise(setImmediate);
    }
  })();
  setTimeout(() => console.log('ready'), WARM_MS);
};
