// Fails on an import that goes uphill or sideways in lib/. The table is data: scripts/layers.json.
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize, relative, sep } from 'node:path'
import { fileURLToPath } from 'node:url'

const lib = fileURLToPath(new URL('../lib/', import.meta.url))
const table = JSON.parse(readFileSync(new URL('./layers.json', import.meta.url), 'utf8'))
const importPattern =
  /^(?:import|export)\b[^'"]*?from\s+['"](\.[^'"]+)['"]|^\s*import\s+['"](\.[^'"]+)['"]|\b(?:import|require)\(\s*['"](\.[^'"]+)['"]\s*\)/gm

/** The room of a path inside lib/, or the file's own name at the top. */
const roomOf = (path) => (path.includes(sep) ? path.split(sep)[0] : path)

const problems = []
let arrows = 0
for (const entry of readdirSync(lib, { recursive: true, withFileTypes: true })) {
  if (!entry.isFile() || !entry.name.endsWith('.ts')) continue
  const file = relative(lib, join(entry.parentPath ?? entry.path, entry.name))
  const room = roomOf(file)
  const allowed = table.rooms[room] ?? table.composition[room]
  if (allowed === undefined) {
    problems.push(`lib/${file}: the room '${room}' is not in scripts/layers.json`)
    continue
  }
  for (const match of readFileSync(join(lib, file), 'utf8').matchAll(importPattern)) {
    const specifier = match[1] ?? match[2] ?? match[3]
    const target = normalize(join(dirname(file), specifier)).replace(/\.js$/, '.ts')
    const targetRoom = roomOf(target)
    arrows++
    if (targetRoom === room || allowed.includes(targetRoom)) continue
    if (table.composition[room] !== undefined && table.composition[targetRoom] !== undefined) continue
    problems.push(`lib/${file} imports lib/${target}: '${room}' may import ${allowed.join(', ') || 'nothing'}`)
  }
}
if (arrows === 0) problems.push('no import was found at all: the check is blind')
for (const problem of problems) console.error(problem)
console.log(`layers: ${arrows} imports checked, ${problems.length} against the table`)
process.exitCode = problems.length === 0 ? 0 : 1
