// Every public symbol says what it is: exports of the package's doors, and the public members of the classes and interfaces among them.
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

const root = fileURLToPath(new URL('..', import.meta.url))
const doors = [
  `${root}lib/index.ts`,
  `${root}lib/simulator/index.ts`,
  `${root}lib/serve.ts`,
  `${root}lib/plan/index.ts`,
]

const config = ts.getParsedCommandLineOfConfigFile(
  `${root}tsconfig.json`,
  {},
  { ...ts.sys, onUnRecoverableConfigFileDiagnostic: () => {} },
)
const program = ts.createProgram(doors, config.options)
const checker = program.getTypeChecker()

const hasText = (symbol) => ts.displayPartsToString(symbol.getDocumentationComment(checker)).trim() !== ''
const isHidden = (symbol) =>
  symbol.getJsDocTags(checker).some(({ name }) => name === 'internal') ||
  (symbol.declarations ?? []).some(
    (declaration) => ts.getCombinedModifierFlags(declaration) & ts.ModifierFlags.Private,
  ) ||
  /^__|^#/.test(symbol.name) || // the constructor, #private members, and symbols such as Symbol.dispose
  symbol.name === 'prototype' ||
  (symbol.flags & ts.SymbolFlags.TypeParameter) !== 0

/** Members that a reader of the documentation meets: what a class or an interface declares itself. */
function membersOf(symbol) {
  if ((symbol.flags & (ts.SymbolFlags.Class | ts.SymbolFlags.Interface)) === 0) return []
  return [
    ...(symbol.members?.values() ?? []),
    ...(symbol.flags & ts.SymbolFlags.Class ? (symbol.exports?.values() ?? []) : []),
  ]
}

const missing = new Map()
let count = 0
function check(symbol, name) {
  count++
  if (hasText(symbol)) return
  const declaration = symbol.declarations?.[0]
  const file = declaration?.getSourceFile()
  const place =
    file === undefined
      ? ''
      : `${file.fileName.slice(root.length)}:${file.getLineAndCharacterOfPosition(declaration.getStart()).line + 1}`
  missing.set(name, place)
}

for (const door of doors) {
  const module = checker.getSymbolAtLocation(program.getSourceFile(door))
  for (const entry of checker.getExportsOfModule(module)) {
    const symbol = entry.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(entry) : entry
    check(symbol, entry.name)
    for (const member of membersOf(symbol))
      if (!isHidden(member)) check(member, `${entry.name}.${ts.unescapeLeadingUnderscores(member.escapedName)}`)
  }
}

for (const [name, place] of missing) console.error(`${place}  ${name} has no docstring`)
console.log(`docs: ${count} public symbols, ${missing.size} without a docstring`)
process.exitCode = missing.size === 0 ? 0 : 1
