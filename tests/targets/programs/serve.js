'use strict';
// Express under load from clients in the same process: routing, JSON both ways, text, an error.
const http = require('http');
const express = require('express');
const { repeat } = require('./profiled');

const CLIENTS = 8;
const app = express();
const products = Array.from({ length: 40 }, (_, id) => ({ id, name: `product ${id}`, price: (id * 7919) % 1000 }));

app.use((request, response, next) => {
  request.received = Date.now();
  next();
});
app.use(express.json());
app.get('/products', (request, response) => {
  const most = Number(request.query.most) || 1000;
  response.json(products.filter((product) => product.price <= most).sort((a, b) => a.price - b.price));
});
app.get('/products/:id', (request, response, next) => {
  const product = products[request.params.id];
  if (!product) return next(new Error('no such product'));
  response.send(`<h1>${product.name}</h1><p>${product.price}</p>`);
});
app.post('/orders', (request, response) => {
  const total = request.body.items.reduce((sum, id) => sum + products[id].price, 0);
  response.status(201).json({ total, received: request.received });
});
app.use((error, request, response, next) => {
  response.status(404).type('txt').send(error.message);
});

const agent = new http.Agent({ keepAlive: true, maxSockets: CLIENTS });
const order = JSON.stringify({ items: [1, 2, 3, 5, 8, 13, 21, 34] });

function ask(port, method, path, body) {
  return new Promise((resolve, reject) => {
    const headers = body ? { 'content-type': 'application/json', 'content-length': body.length } : {};
    const request = http.request({ port, agent, method, path, headers }, (response) => {
      let size = 0;
      response.on('data', (data) => { size += data.length; });
      response.on('end', () => resolve(size));
    });
    request.on('error', reject);
    request.end(body);
  });
}

async function client(port) {
  await ask(port, 'GET', '/products?most=500');
  await ask(port, 'GET', '/products/7');
  await ask(port, 'GET', '/products/700');
  await ask(port, 'POST', '/orders', order);
}

const server = app.listen(0, () => {
  const { port } = server.address();
  repeat(() => Promise.all(Array.from({ length: CLIENTS }, () => client(port))));
});
