// What module.mjs imports.
import harness from './harness.js';

export default function () { return harness.spin(); } // default
export function exported(f) { return f(); } // exported
export const indirectly = (f) => exported(f); // indirectly
