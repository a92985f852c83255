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
    if (declaration === undefined || isForeign(declaration)) return
    if (/^(__|#)/.test(member.name) || member.name === 'prototype') return
    if (member.getJsDocTags(this.#checker).some(({ name }) => name === 'internal')) return
    const type = this.#checker.getNonNullableType(this.#checker.getTypeOfSymbolAtLocation(member, declaration))
    const name = `${owner}.${member.name}`
    // What a class has is ours; what an interface has may be the program's.
    if (ts.isPropertySignature(declaration)) yield* this.#given(name, type)
    if (ts.isMethodSignature(declaration) || ts.isMethodDeclaration(declaration)) {
      // A method that need not be there is the program's to give.
      if (ts.isMethodSignature(declaration) && declaration.questionToken !== undefined) yield name
      yield* this.#parameters(name, type.getCallSignatures(), declaration)
    }
  }

  *#parameters(owner: string, signatures: readonly ts.Signature[], place: ts.Node): Generator<string> {
    for (const parameter of signatures.flatMap((signature) => signature.getParameters()))
      yield* this.#given(
        `${owner}(${parameter.name})`,
        this.#checker.getTypeOfSymbolAtLocation(parameter, parameter.valueDeclaration ?? place),
      )
  }

  /** What is passed under a name: the function itself, or the functions of an object whose type has no name, in parts (`&`, `|`) or whole. */
  *#given(name: string, type: ts.Type): Generator<string> {
    if (this.#isCallable(type)) {
      yield name
      return
    }
    for (const part of partsOf(this.#checker.getNonNullableType(type))) {
      if (!isNameless(part)) continue
      for (const member of part.getProperties()) {
        const declaration = member.declarations?.[0]
        if (declaration === undefined || isForeign(declaration)) continue
        yield* this.#given(`${name}.${member.name}`, this.#checker.getTypeOfSymbolAtLocation(member, declaration))
      }
    }
  }

  #isCallable(type: ts.Type): boolean {
    const some = this.#checker.getNonNullableType(type)
    return (some.isUnion() ? some.types : [some]).some((one) => one.getCallSignatures().length > 0)
  }
}

function partsOf(type: ts.Type): readonly ts.Type[] {
  return type.isUnionOrIntersection() ? type.types.flatMap(partsOf) : [type]
}

/** A type that is written where it is used, or picked from another: no export shows what it has. */
function isNameless(type: ts.Type): boolean {
  return type.symbol?.name === '__type' && (type.flags & ts.TypeFlags.Object) !== 0
}

function isForeign(declaration: ts.Declaration): boolean {
  return declaration.getSourceFile().fileName.includes('node_modules')
}
