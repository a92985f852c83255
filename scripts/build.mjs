// npm's `prepare` and `build` scripts: compiles lib/ into dist/, afresh. A packed package has dist/ already and never runs this.
import { spawnSync } from 'node:child_process'
import { renameSync, rmSync } from 'node:fs'
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

function takePlace(fresh) {
  const old = `${fresh}-old`
  try {
    renameSync(`${root}dist`, old)
  } catch (error) {
    if (error.code !== 'ENOENT') throw error
  }
  renameSync(fresh, `${root}dist`)
  rmSync(old, { recursive: true, force: true })
}

const tsc = findCompiler()
if (tsc === undefined) {
  console.error(
    'vhost-vdpa: dist/ was not compiled, because TypeScript is not installed: run npm install without --omit=dev',
  )
  process.exitCode = 1
} else {
  // Into a folder beside it, where source maps are right as well, which takes the place of the old one whole: programs that run meanwhile find one of the two,
  // and what was compiled from a file that is gone goes.
  const fresh = `${root}dist-${process.pid}`
  const words = [tsc, '-p', 'tsconfig.build.json', '--outDir', fresh]
  const { status } = spawnSync(process.execPath, words, { cwd: root, stdio: 'inherit' })
  if (status === 0) takePlace(fresh)
  else rmSync(fresh, { recursive: true, force: true })
  process.exitCode = status ?? 1
}
