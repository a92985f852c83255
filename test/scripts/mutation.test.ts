// What the mutation run changes: places of a program by its syntax tree, and a sample of them by lot; and how it knows which functions a test runs.

import { execFileSync } from 'node:child_process'
import { beforeAll, expect, test } from '@jest/globals'

/** Runs expressions that may use the module's functions, in one process, and gives what they are. */
function evaluate(expressions: readonly string[]): unknown[] {
  const program = `
    import { mutantsOf, mutated, sample } from './scripts/mutation/mutants.mjs'
    import { functionAt, functionsOf, marked } from './scripts/mutation/functions.mjs'
    const every = (text) => mutantsOf('x.ts', text).map((mutant) => mutated(text, mutant))
    console.log(JSON.stringify([${expressions.join(',')}]))
  `
  const words = ['--input-type=module', '-e', program]
  return JSON.parse(execFileSync(process.execPath, words, { encoding: 'utf8' })) as unknown[]
}

const places: readonly (readonly [name: string, text: string, expected: readonly string[]])[] = [
  ['conditions', 'if (a) b = c', ['if (!(a)) b = c', 'if (a) ;']],
  ['loops', 'while (a > 1);', ['while (!(a > 1));', 'while (a >= 1);', 'while (a > (1 + 1));']],
  [
    'operators',
    'const x = a && b << 2n',
    ['const x = a || b << 2n', 'const x = a && b >>> 2n', 'const x = a && b << (2n + 1n)'],
  ],
  ['literals', 'const x = () => !true', ['const x = () => true', 'const x = () => !false']],
  ['statements', 'f(); x++', ['; x++', 'f(); x--']],
  ['steps of a procedure', 'function* f() { yield* g() }', ['function* f() { ; }']],
]

const silent = [
  "import { a } from 'a'",
  'interface B { readonly c: 1 }',
  'type D = true',
  'const table = { e: 1 }',
  'function f(x: 2): void { throw new Error(`${x + 1}`) }',
  'class G extends H { constructor() { super() } }',
].join('\n')

let answers: string[][]

beforeAll(() => {
  answers = evaluate(
    [...places.map(([, text]) => text), silent].map((text) => `every(${JSON.stringify(text)})`),
  ) as string[][]
})

test.each(places.map(([name, , expected], at) => [name, expected, at] as const))(
  '%s are changed',
  (_name, expected, at) => {
    const found = answers[at] ?? []
    expect(found).toEqual(expect.arrayContaining([...expected]))
    expect(new Set(found).size).toBe(found.length)
  },
)

test('types, imports, names of fields and the sentences of errors are not', () => {
  expect(answers.at(-1)).toEqual([])
})

test('a sample is the same for the same seed, and has each place once', () => {
  const all = '[...Array(50).keys()]'
  const wanted = [[10, 7], [10, 7], [10, 8], [100, 7]] as const // prettier-ignore
  const [one, again, other, every] = evaluate(
    wanted.map(([count, seed]) => `sample(${all}, ${count}, ${seed})`),
  ) as number[][]
  expect(one).toEqual(again)
  expect(one).not.toEqual(other)
  expect([...(every ?? [])].sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, index) => index))
})

test('a marked program does what it did, and says which of its functions run', () => {
  const program = `
    const twice = (value) => 2 * value
    const pair = (value) => ({ value, twice: () => twice(value) })
    function idle() { return () => 1 }
    class Counter { count = 0; step() { this.count += pair(3).twice() } }
    const counter = new Counter()
    counter.step()
    said = counter.count
  `
  const wanted = ['2 * value', '({ value', 'twice(value)', 'return () => 1', '=> 1', 'this.count +=', 'counter.step()']
  const [said, ran] = evaluate([
    `(() => {
      const names = new Set()
      globalThis.ran = (name) => names.add(name)
      let said
      const program = ${JSON.stringify(program)}
      eval(marked('x.ts', program))
      const functions = functionsOf('x.ts', program)
      const ran = ${JSON.stringify(wanted)}.map((text) => names.has(functionAt('x.ts', functions, program.indexOf(text))))
      return [said, ran]
    })()`,
  ])[0] as [unknown, unknown]
  expect(said).toBe(6)
  expect(ran).toEqual([true, true, true, false, false, true, true])
})
