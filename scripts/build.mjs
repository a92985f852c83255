// npm's `prepare` and `build` scripts: compiles lib/ into dist/, afresh. A packed package has dist/ already and never runs this.
import { spawnSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

function findCompiler() {
  try {
    return createRequire(import.meta.url).resolve('typescript/bin/tsc')
  } catch {
    return undefined
  }
}

const tsc = findCompiler()
if (tsc === undefined) {
  console.error(
    'vhost-vdpa: dist/ was not compiled, because TypeScript is not installed: run npm install without --omit=dev',
  )
  process.exitCode = 1
} else {
  // What was compiled from a file that is gone would still be there to be required.
  rmSync(`${root}dist`, { recursive: true, force: true })
  const { status } = spawnSync(process.execPath, [tsc, '-p', 'tsconfig.build.json'], { cwd: root, stdio: 'inherit' })
  process.exitCode = status ?? 1
}
