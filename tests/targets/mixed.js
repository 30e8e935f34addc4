'use strict';
// JSON, hashes, compression and files in turn; every moment lies under `drive`. argv: the digest of pbkdf2.
const crypto = require('crypto'), zlib = require('zlib'), fs = require('fs');
const text = JSON.stringify(Array.from({ length: 300 }, (_, i) => ({ i, s: 'x' + i })));
const bytes = Buffer.from(text);
function work() {
  for (let i = 0; i < 20; i++) JSON.parse(text);
  for (let i = 0; i < 20; i++) crypto.createHash('sha256').update(bytes).digest();
  crypto.pbkdf2Sync('a', 'b', 300, 32, process.argv[2] || 'sha512');
  zlib.deflateSync(bytes);
  for (let i = 0; i < 20; i++) fs.statSync(__filename);
  fs.readFileSync(__filename);
}
function drive() { for (;;) work(); }
console.log('ready');
drive();
