// Asks the compiler about expectations.ts, so that `npm test` fails when the public types promise less, or allow more, than is written there.

import { join } from 'node:path'
import { expect, test } from '@jest/globals'
import ts from 'typescript'

const root = join(__dirname, '..', '..')

/** What the compiler says of a file of this folder, whose text may be another one than on disk. */
function complaints(text?: (original: string) => string): string[] {
  const path = join(__dirname, 'expectations.ts')
  const config = ts.getParsedCommandLineOfConfigFile(
    join(root, 'tsconfig.json'),
    {},
    { ...ts.sys, onUnRecoverableConfigFileDiagnostic: (problem) => expect(problem).toBeUndefined() },
  )
  const options = config?.options ?? {}
  const host = ts.createCompilerHost(options)
  const readFile = host.readFile.bind(host)
  host.getSourceFile = (name, version) => {
    const original = readFile(name) ?? ''
    return ts.createSourceFile(name, name === path && text !== undefined ? text(original) : original, version)
  }
  const program = ts.createProgram([path], options, host)
  return ts
    .getPreEmitDiagnostics(program, program.getSourceFile(path))
    .map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, '\n'))
}

test('the public types promise what is expected of them, and no more', () => {
  expect(complaints()).toEqual([])
})

test('a promise that is not kept would be seen', () => {
  const spoilt = complaints((text) =>
    text.replace("same<Mapping['offset'], number>", "same<Mapping['offset'], bigint>"),
  )
  expect(spoilt).toHaveLength(1)
  const allowed = complaints((text) => text.replace('openDevice(3)', "openDevice('3')"))
  expect(allowed).toEqual(["Unused '@ts-expect-error' directive."])
})
