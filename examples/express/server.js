'use strict';
// An Express application that serves its own stacks to Prometheus, the way it was done with
// promfiler: `npm install express`, then open /slow a few times and look at the metrics.
const express = require('express');

const jsspy = require('../../js');

function fibonacci(n) {
  return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

const app = express();

app.get('/slow', (request, response) => {
  response.send(String(fibonacci(32)));
});

app.get('/stacks', (request, response, next) => {
  jsspy.getMetrics().then((text) => response.type('text/plain').send(text)).catch(next);
});

jsspy.startProfiling({ samplingInterval: 5000 });
jsspy
  .startServer({ hostname: '127.0.0.1', port: Number(process.env.METRICS_PORT || 9142) })
  .then((address) => {
    const server = app.listen(Number(process.env.PORT || 3000), '127.0.0.1', () => {
      console.log(`application on port ${server.address().port}, stacks at ${address}`);
    });
  })
  .catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
