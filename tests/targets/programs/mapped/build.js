'use strict';
// Builds main.ts of a directory with a real tool; prints the file to run.
// node build.js tsc|esbuild|inline|rollup <directory>
const fs = require('fs');
const path = require('path');
const [tool, directory] = process.argv.slice(2);
const main = path.join(directory, 'main.ts');

function compile(module, out) {
  const ts = require('typescript');
  const options = { target: ts.ScriptTarget.ES2019, module, sourceMap: true, outDir: out, lib: ['lib.es2020.d.ts', 'lib.dom.d.ts'] };
  const program = ts.createProgram([main], options);
  const wrong = ts.getPreEmitDiagnostics(program);
  if (wrong.length) throw new Error(wrong.map((it) => ts.flattenDiagnosticMessageText(it.messageText, ' ')).join('\n'));
  program.emit();
  return path.join(out, 'main.js');
}

async function build() {
  const out = path.join(directory, tool);
  if (tool === 'tsc') return compile(1, out);
  if (tool === 'rollup') {
    const bundle = await require('rollup').rollup({ input: compile(5, path.join(directory, 'modules')) });
    await bundle.write({ file: path.join(out, 'bundle.js'), format: 'cjs', sourcemap: true });
    return path.join(out, 'bundle.js');
  }
  const outfile = path.join(out, 'bundle.js');
  require('esbuild').buildSync({
    entryPoints: [main], outfile, bundle: true, minify: true, platform: 'node', target: 'es2019',
    sourcemap: tool === 'inline' ? 'inline' : true,
  });
  return outfile;
}

build().then((file) => console.log(file));
