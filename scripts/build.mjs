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

/** Another build may take the same place meanwhile: who comes last has it. */
function takePlace(fresh, old) {
  for (;;) {
    try {
      renameSync(`${root}dist`, old)
    } catch (error) {
      if (error.code !== 'ENOENT') throw error
    }
    try {
      return renameSync(fresh, `${root}dist`)
    } catch (error) {
      if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error
    } finally {
      rmSync(old, { recursive: true, force: true })
    }
  }
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
  const old = `${fresh}-old`
  // Of a build that was killed, whose process had the same number.
  for (const folder of [fresh, old]) rmSync(folder, { recursive: true, force: true })
  const words = [tsc, '-p', 'tsconfig.build.json', '--outDir', fresh]
  const { status } = spawnSync(process.execPath, words, { cwd: root, stdio: 'inherit' })
  if (status === 0) takePlace(fresh, old)
  else rmSync(fresh, { recursive: true, force: true })
  process.exitCode = status ?? 1
}
