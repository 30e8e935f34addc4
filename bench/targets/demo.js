'use strict';
// An Express server with promfiler's demo's one route, `/`, which computes for a random while; and
// `/paths`, which comes to its work on one of 6,561 ways, so that there are many distinct stacks.
const express = require('express');

const { ITERATIONS = 2e7 } = process.env;

function powers(base, exponent, count) {
  let sum = 0;
  for (let i = 0; i < count; i += 1) sum += base ** exponent;
  return sum;
}

function below(limit) {
  return Math.floor(Math.random() * limit);
}

const ways = [
  function east(path, work) { return path ? ways[path % 3]((path - (path % 3)) / 3, work) : work(); },
  function west(path, work) { return path ? ways[path % 3]((path - (path % 3)) / 3, work) : work(); },
  function north(path, work) { return path ? ways[path % 3]((path - (path % 3)) / 3, work) : work(); },
];

const app = express();

app.get('/', (request, response) => {
  powers(below(42), below(42), below(ITERATIONS));
  response.send('Hello World!');
});

app.get('/paths', (request, response) => {
  for (let i = 0; i < 20; i += 1) {
    ways[0](3 ** 8 + below(3 ** 8), () => powers(3, 7, 30000));
  }
  response.send('There.');
});

const server = app.listen(Number(process.env.PORT || 0), '127.0.0.1', () => {
  console.log(`ready on port ${server.address().port}`);
});
