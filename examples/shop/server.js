'use strict';
// A small shop: an HTTP server that spends its time where real ones do. It asks itself for pages,
// so that there is something to see without a load generator.
const crypto = require('crypto');
const http = require('http');
const zlib = require('zlib');

const { Catalogue } = require('./catalogue');
const { renderPage } = require('./render');

const catalogue = new Catalogue(2000);

function sessionToken(id) {
  return crypto.pbkdf2Sync(`session-${id}`, 'salt', 150, 32, 'sha256').toString('hex');
}

async function handle(request, response) {
  const url = new URL(request.url, 'http://shop');
  const items = catalogue.search(url.searchParams.get('q') || '');
  const page = renderPage({ title: 'Shop', token: sessionToken(request.url.length), items });
  await null;
  response.setHeader('content-encoding', 'gzip');
  response.end(zlib.gzipSync(page));
}

const server = http.createServer((request, response) => {
  handle(request, response).catch((error) => {
    response.statusCode = 500;
    response.end(String(error));
  });
});

const QUERIES = ['lamp', 'chair', 'a', 'table 7', '42', 'red'];

function browse(port, n) {
  const query = encodeURIComponent(QUERIES[n % QUERIES.length]);
  http.get({ port, path: `/?q=${query}`, agent: false }, (response) => {
    response.resume();
    response.on('end', () => setImmediate(browse, port, n + 1));
  });
}

server.listen(Number(process.env.PORT) || 0, '127.0.0.1', () => {
  const { port } = server.address();
  console.log(`ready on port ${port}, pid ${process.pid}`);
  browse(port, 0);
  browse(port, 3);
});
