// `npm run mutants`: plants the bugs of mutants.json one at a time and runs the suites that must notice. Fails when one survives, or when its place is gone.
// The file is put back whatever happens.
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const { mutants } = JSON.parse(readFileSync(`${root}scripts/mutants.json`, 'utf8'))
const wanted = process.argv[2]

/** Whether the suites failed with the bug in place. */
function dies({ file, find, replace, suites }) {
  const path = `${root}${file}`
  const source = readFileSync(path, 'utf8')
  if (source.split(find).length !== 2) return 'its place is gone, or there are two'
  const putBack = () => writeFileSync(path, source)
  const interrupted = () => process.exit(130)
  process.on('exit', putBack)
  process.on('SIGINT', interrupted)
  try {
    writeFileSync(
      path,
      source.replace(find, () => replace),
    )
    const jest = ['node_modules/jest/bin/jest.js', '--bail', ...suites]
    const { status } = spawnSync(process.execPath, jest, { cwd: root, stdio: 'ignore' })
    return status === 0 ? 'it survives' : undefined
  } finally {
    putBack()
    process.off('exit', putBack)
    process.off('SIGINT', interrupted)
  }
}

let survivors = 0
const chosen = mutants.filter(({ name }) => wanted === undefined || name.includes(wanted))
for (const mutant of chosen) {
  const why = dies(mutant)
  if (why !== undefined) survivors++
  console.log(`${why === undefined ? 'died' : 'ALIVE'}  ${mutant.name}${why === undefined ? '' : `: ${why}`}`)
}
console.log(`mutants: ${chosen.length - survivors} of ${chosen.length} died`)
process.exitCode = survivors === 0 && chosen.length > 0 ? 0 : 1
