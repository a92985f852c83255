// Where the public interface takes a function of the program: parameters, and members of what a program passes, whose type can be called.

import { join } from 'node:path'
import ts from 'typescript'
import { doors } from '../doors.js'
import { packageRoot } from '../native/support.js'

const root = packageRoot()
const sources = doors().map(([, source]) => join(root, source))

/** `NetDriver.receive(handler)`, `RecordingOptions.onEvent` …, in order. */
export function publicFunctions(): string[] {
  const { options } = ts.parseJsonConfigFileContent(
    ts.readConfigFile(join(root, 'tsconfig.json'), (path) => ts.sys.readFile(path)).config,
    ts.sys,
    root,
  )
  const program = ts.createProgram(sources, options)
  const checker = program.getTypeChecker()
  const found = new Set<string>()
  for (const door of sources) {
    const source = program.getSourceFile(door)
    const module = source && checker.getSymbolAtLocation(source)
    if (module === undefined) throw new Error(`${door} exports nothing`)
    for (const entry of checker.getExportsOfModule(module)) {
      const symbol = (entry.flags & ts.SymbolFlags.Alias) !== 0 ? checker.getAliasedSymbol(entry) : entry
      for (const name of new Finder(checker).of(symbol)) found.add(name)
    }
  }
  return [...found].sort()
}

/** What one export takes. */
class Finder {
  readonly #checker: ts.TypeChecker

  constructor(checker: ts.TypeChecker) {
    this.#checker = checker
  }

  *of(symbol: ts.Symbol): Generator<string> {
    const declaration = symbol.declarations?.[0]
    if (declaration === undefined) return
    if (ts.isFunctionDeclaration(declaration))
      yield* this.#parameters(symbol.name, this.#checker.getTypeOfSymbol(symbol).getCallSignatures(), declaration)
    const isNamed = ts.isClassDeclaration(declaration) || ts.isInterfaceDeclaration(declaration)
    if (!isNamed && !ts.isTypeAliasDeclaration(declaration)) return
    const statics = ts.isClassDeclaration(declaration) ? this.#checker.getTypeOfSymbol(symbol).getProperties() : []
    for (const member of [...this.#checker.getDeclaredTypeOfSymbol(symbol).getProperties(), ...statics])
      yield* this.#member(symbol.name, member)
  }

  *#member(owner: string, member: ts.Symbol): Generator<string> {
    const declaration = member.declarations?.[0]
    if (declaration === undefined || declaration.getSourceFile().fileName.includes('node_modules')) return
    if (/^(__|#)/.test(member.name) || member.name === 'prototype') return
    if (member.getJsDocTags(this.#checker).some(({ name }) => name === 'internal')) return
    const type = this.#checker.getNonNullableType(this.#checker.getTypeOfSymbolAtLocation(member, declaration))
    // What a class has is ours; what an interface has may be the program's.
    if (ts.isPropertySignature(declaration) && this.#isCallable(type)) yield `${owner}.${member.name}`
    if (ts.isMethodSignature(declaration) || ts.isMethodDeclaration(declaration))
      yield* this.#parameters(`${owner}.${member.name}`, type.getCallSignatures(), declaration)
  }

  *#parameters(owner: string, signatures: readonly ts.Signature[], place: ts.Node): Generator<string> {
    for (const parameter of signatures.flatMap((signature) => signature.getParameters())) {
      const type = this.#checker.getTypeOfSymbolAtLocation(parameter, parameter.valueDeclaration ?? place)
      if (this.#isCallable(type)) yield `${owner}(${parameter.name})`
    }
  }

  #isCallable(type: ts.Type): boolean {
    const some = this.#checker.getNonNullableType(type)
    return (some.isUnion() ? some.types : [some]).some((one) => one.getCallSignatures().length > 0)
  }
}
