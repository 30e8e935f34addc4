'use strict';
// Cases in a worker thread, while the main thread sleeps. Runs on Node.js 12 and later.
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const harness = require('./harness');
const { test, spin } = harness;

if (isMainThread) {
  const worker = new Worker(__filename, { workerData: process.argv[2] });
  worker.once('message', (titles) => harness.listen(titles, (wanted, done) => {
    worker.once('message', done);
    worker.postMessage(wanted);
  }));
} else {
  harness.setOutput(workerData);
  test('inWorker > deeper > inMap', () => inWorker());
  function inWorker() { return deeper(); } // inWorker
  function deeper() { return [1].map(function inMap() { return spin(); })[0]; } // deeper, inMap
  test('onWorkerTimeout', () => { setTimeout(function onWorkerTimeout() { spin(); }, 1); }); // onWorkerTimeout
  test('inWorkerAsync', () => { inWorkerAsync(); });
  async function inWorkerAsync() {
    await null;
    spin(); // inWorkerAsync
  }
  parentPort.on('message', (titles) => harness.run(titles, () => parentPort.postMessage('done')));
  parentPort.postMessage(harness.titles());
}
