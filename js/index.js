'use strict';
// promfiler's calls. What they start is `jsspy promfiler --pid <this process>`, a process beside this
// one that samples it from outside; it ends when this process ends. Nothing here samples, and
// nothing keeps the event loop alive.
const { spawn } = require('child_process');
const http = require('http');
const { promisify } = require('util');

const MAX_SAID = 16384;
const settings = { hostname: '0.0.0.0', port: 9142, path: '/metrics', samplingInterval: 1000 };
const HOSTS = { '0.0.0.0': '127.0.0.1', '[::]': '[::1]' };
const PERMISSION = 4;

let child = null;
let serving = null; // Promise of the address; null while nothing runs
let wanted = null; // Promise of a start that is about to happen

function configure(options) {
  for (const key of Object.keys(settings)) {
    if (options && options[key] !== undefined) settings[key] = options[key];
  }
}

function explain(code, said) {
  const lines = said.trim() || `jsspy ended with exit code ${code}`;
  if (code !== PERMISSION) return new Error(lines);
  return new Error(`${lines}
jsspy runs as a child of this process. Where kernel.yama.ptrace_scope is 1 only ancestors may look
at a process: start it with \`jsspy promfiler app.js\` instead, or give jsspy CAP_SYS_PTRACE.`);
}

function run() {
  return new Promise((resolve, reject) => {
    const program = process.env.JSSPY || 'jsspy';
    const process_ = (child = spawn(program, [
      'promfiler', '--hostname', String(settings.hostname), '--port', String(settings.port),
      '--path', String(settings.path), '--sampling-interval', String(settings.samplingInterval),
      '--pid', String(process.pid),
    ], { stdio: ['ignore', 'ignore', 'pipe'] }));
    let said = '';
    process_.stderr.setEncoding('utf8');
    process_.stderr.on('data', (text) => {
      said = (said + text).slice(-MAX_SAID);
      const match = /^Serving (\S+)$/m.exec(said);
      if (!match) return;
      process_.stderr.unref();
      process_.unref();
      resolve(match[1]);
    });
    process_.on('error', (error) => {
      forget(process_);
      reject(new Error(`cannot start ${program}: ${error.message}. Install it with "pip install jsspy".`));
    });
    process_.on('close', (code) => {
      forget(process_);
      reject(explain(code, said));
    });
  });
}

function forget(which) {
  if (child === which) child = serving = null;
}

function stop() {
  if (!child) return Promise.resolve();
  const ended = new Promise((resolve) => child.once('close', resolve));
  child.ref();
  child.stderr.ref();
  child.kill('SIGTERM');
  child = serving = null;
  return ended;
}

// Several calls in one turn of the event loop are one start.
function start() {
  if (!wanted) {
    wanted = promisify(setImmediate)().then(stop).then(() => {
      wanted = null;
      serving = run();
      return serving;
    });
  }
  return wanted;
}

/** Serve the metrics; resolves to their address. */
function startServer(options) {
  configure(options);
  return start();
}

/** Begin to sample, every `samplingInterval` microseconds; resolves to the metrics' address. */
function startProfiling(options) {
  configure(options);
  return start();
}

/** Stop sampling and serving. */
function stopProfiling() {
  return stop();
}

/** Begin again at zero. */
function resetProfiler() {
  return start();
}

/** Resolves to the metrics as Prometheus reads them. */
function getMetrics() {
  const running = wanted || serving;
  if (!running) return Promise.reject(new Error('nothing is profiled: call startProfiling() first'));
  return running.then((address) => new Promise((resolve, reject) => {
    const [, host, port, path] = /^http:\/\/(.*):(\d+)(\/.*)$/.exec(address);
    const hostname = (HOSTS[host] || host).replace(/^\[|\]$/g, '');
    const request = http.get({ hostname, port, path, agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (part) => { text += part; });
      response.on('end', () => {
        if (response.statusCode === 200) resolve(text);
        else reject(new Error(`${address} answered ${response.statusCode}`));
      });
    });
    request.on('error', reject);
  }));
}

module.exports = { startServer, startProfiling, stopProfiling, resetProfiler, getMetrics };
