'use strict';
// TypeScript: parse, bind, check and print one program, over and over.
const fs = require('fs');
const path = require('path');
const ts = require('typescript');
const { repeat } = require('./profiled');

const CLASSES = 12;
const library = path.dirname(require.resolve('typescript'));
const options = { target: ts.ScriptTarget.ES2017, module: ts.ModuleKind.CommonJS, strict: true, types: [] };
const known = new Map();

const source = ['import { Item } from "./item";'];
for (let i = 0; i < CLASSES; i++) {
  source.push(`
interface Shape${i}<T extends Item> { readonly kind: 'shape${i}'; parts: ReadonlyArray<T>; scale?: number }
type Keys${i} = { [K in keyof Shape${i}<Item>]: Shape${i}<Item>[K] extends Function ? never : K }[keyof Shape${i}<Item>];
export class Store${i}<T extends Item> implements Iterable<T> {
  private readonly items = new Map<string, T>();
  constructor(private readonly shape: Shape${i}<T>, public name = \`store \${${i}}\`) {}
  *[Symbol.iterator](): IterableIterator<T> { yield* this.items.values(); }
  add(...added: T[]): this { for (const item of added) this.items.set(item.id, item); return this; }
  async find(test: (item: T) => boolean | Promise<boolean>): Promise<T | undefined> {
    for (const item of this) if (await test(item)) return item;
    return undefined;
  }
  get total(): number { return [...this].map(({ size = 1 }) => size).reduce((a, b) => a + b, 0) * (this.shape.scale ?? 1); }
  key(key: Keys${i}): string { switch (key) { case 'kind': return this.shape[key]; case 'parts': return 'p'; default: return \`\${key}\`; } }
}
export const store${i} = new Store${i}({ kind: 'shape${i}', parts: [{ id: 'a', size: ${i} }] });`);
}
const files = {
  '/item.ts': 'export interface Item { id: string; size?: number; tags?: Set<string> }',
  '/main.ts': source.join('\n'),
};

const host = {
  ...ts.createCompilerHost(options),
  getSourceFile(name, version) {
    if (files[name] !== undefined) return ts.createSourceFile(name, files[name], version, true);
    if (!known.has(name)) {
      known.set(name, ts.createSourceFile(name, fs.readFileSync(name, 'utf8'), version, true));
    }
    return known.get(name);
  },
  getDefaultLibLocation: () => library,
  getDefaultLibFileName: () => path.join(library, 'lib.es2017.d.ts'),
  fileExists: (name) => files[name] !== undefined || fs.existsSync(name),
  readFile: (name) => files[name] || fs.readFileSync(name, 'utf8'),
  getCurrentDirectory: () => '/',
  writeFile() {},
};

repeat(() => {
  const program = ts.createProgram(['/main.ts'], options, host);
  const wrong = ts.getPreEmitDiagnostics(program);
  if (wrong.length) throw new Error(ts.formatDiagnostics(wrong, host));
  program.emit();
});
