'use strict';
// What functions.js requires. Runs on Node.js 0.10 and later.
var spin = require('./harness').spin;

exports.twice = 2 * whileLoading();

function whileLoading() { return spin(); } // whileLoading
