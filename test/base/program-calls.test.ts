import { spawnSync } from 'node:child_process'
import { resolve } from 'node:path'
import { describe, expect, test } from '@jest/globals'
import { ProgramCalls } from '../../lib/base/program-calls.js'

describe('calls into the program', () => {
  test('give what the program returns', () => {
    const calls = new ProgramCalls()
    expect(calls.call(() => 7)).toBe(7)
    expect(() => calls.throwKept()).not.toThrow()
  })

  test('go on after one that throws, which is thrown at the end, once', () => {
    const calls = new ProgramCalls()
    const bug = new Error('bug')
    const served: number[] = []
    for (const n of [1, 2, 3]) {
      calls.call(() => {
        if (n === 2) throw bug
        served.push(n)
      })
    }
    expect(served).toEqual([1, 3])
    expect(() => calls.throwKept()).toThrow(bug)
    expect(() => calls.throwKept()).not.toThrow()
  })

  test('keep all that was thrown, undefined too', () => {
    const calls = new ProgramCalls()
    calls.keep(undefined)
    calls.keep(new Error('second'))
    let thrown: unknown
    try {
      calls.throwKept()
    } catch (failure) {
      thrown = failure
    }
    expect((thrown as AggregateError).errors).toEqual([undefined, new Error('second')])
  })
})

test('what an unasked call throws is seen by uncaughtException, after who made the call has gone on', () => {
  const script = `
    const ts = require('typescript'), fs = require('fs')
    const source = fs.readFileSync(process.argv[1], 'utf8')
    const module_ = { exports: {} }
    new Function('exports', ts.transpileModule(source, { compilerOptions: { module: 'commonjs', target: 'es2022' } }).outputText)(module_.exports)
    process.on('uncaughtException', (failure) => console.log('uncaught', failure.message))
    module_.exports.callUnasked(() => { throw new Error('bug') })
    console.log('went on')`
  const { stdout } = spawnSync(process.execPath, ['-e', script, resolve('lib/base/program-calls.ts')], {
    encoding: 'utf8',
  })
  expect(stdout).toBe('went on\nuncaught bug\n')
})
