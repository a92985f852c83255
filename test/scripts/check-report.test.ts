// The checks of reports: what should have run and did not is found, whatever way it was lost.

import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { root } from './support.js'

interface Assertion {
  fullName: string
  status: string
}

interface SuiteResult {
  name: string
  status: string
  assertionResults: Assertion[]
}

interface Report {
  success: boolean
  wasInterrupted?: boolean
  testResults: SuiteResult[]
}

let folder: string

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vhost-vdpa-reports-'))
})

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

const suitesOf = (of: string, ending: string) =>
  readdirSync(join(root, of))
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => `/somewhere/${of}/${name.replace(/\.ts$/, ending)}`)

/** A report in which each of the suites passed, on every device. */
function good(names: readonly string[]): Report {
  const assertionResults = ['vdpa_sim_net', 'vdpa_sim_blk', 'vp_vdpa'].map((device) => ({
    fullName: `${device} works`,
    status: 'passed',
  }))
  return {
    success: true,
    testResults: names.map((name) => ({
      name,
      status: 'passed',
      assertionResults: assertionResults.map((each) => ({ ...each })),
    })),
  }
}

function check(script: string, ...words: readonly string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'scripts', script), ...words], {
    encoding: 'utf8',
  })
  return { status, stdout, stderr }
}

/** What a report may have lost, by what is then said. */
const losses: readonly (readonly [says: string, lose: (report: Report) => void])[] = [
  ['did not run', (report) => void report.testResults.pop()],
  [
    'passed',
    ({ testResults: [suite] }) => {
      for (const each of suite?.assertionResults ?? []) each.status = 'pending'
    },
  ],
  [
    'no test of',
    ({ testResults: [suite] }) => {
      suite?.assertionResults.splice(0)
    },
  ],
  ['did not pass', ({ testResults: [suite] }) => void Object.assign(suite ?? {}, { status: 'failed' })],
  ['jest did not succeed', (report) => void (report.success = false)],
  ['jest did not succeed', (report) => void (report.wasInterrupted = true)],
  [
    'skipped without a reason',
    ({ testResults: [suite] }) => void suite?.assertionResults.push({ fullName: 'some other day', status: 'pending' }),
  ],
]

describe('a report of npm test', () => {
  const checkReport = (report: Report) => {
    const path = join(folder, 'tests.json')
    writeFileSync(path, JSON.stringify(report))
    return check('check-test-report.mjs', path, 'test/scripts')
  }

  test('that is whole is taken, a skip that says why included', () => {
    const report = good(suitesOf('test/scripts', '.ts'))
    const [suite] = report.testResults
    suite?.assertionResults.push({ fullName: 'a ring (skipped: no such device)', status: 'pending' })
    // jest's word for a suite of which some tests were skipped.
    if (suite !== undefined) suite.status = 'focused'
    expect(checkReport(report)).toMatchObject({ status: 0, stderr: '' })
  })

  test.each(losses)('of which something is lost is refused: %s', (says, lose) => {
    const report = good(suitesOf('test/scripts', '.ts'))
    lose(report)
    const { status, stderr } = checkReport(report)
    expect(status).toBe(1)
    expect(stderr).toContain(says)
  })

  test('that was never written, or not to its end, is refused', () => {
    const path = join(folder, 'half.json')
    writeFileSync(path, JSON.stringify(good(suitesOf('test/scripts', '.ts'))).slice(0, -1))
    expect(check('check-test-report.mjs', path, 'test/scripts').stderr).toContain('cut short')
    const { status, stderr } = check('check-test-report.mjs', join(folder, 'none.json'), 'test/scripts')
    expect(status).toBe(1)
    expect(stderr).toContain('there is no report')
  })

  test('of a folder without suites is refused', () => {
    const path = join(folder, 'empty.json')
    writeFileSync(path, JSON.stringify(good([])))
    expect(check('check-test-report.mjs', path, 'scripts/lab').stderr).toContain('no suite was to run')
  })
})

describe('what a kernel lab left', () => {
  const machine = { kernel: '6.12.1-amd64', parameters: [] as string[], absent: [] }
  const suites = suitesOf('test/kernel', '.js')
  const checkLab = (report: Report | undefined, of: object | undefined, ...words: readonly string[]) => {
    const out = mkdtempSync(join(folder, 'lab-'))
    if (report !== undefined) writeFileSync(join(out, 'jest.json'), JSON.stringify(report))
    if (of !== undefined) writeFileSync(join(out, 'devices.json'), JSON.stringify(of))
    return check('check-lab-report.mjs', out, '--test', 'test/kernel', ...words)
  }

  test('is taken when it is whole', () => {
    expect(checkLab(good(suites), machine)).toMatchObject({ status: 0, stderr: '' })
    const other = { ...machine, kernel: '7.2.1-amd64', parameters: ['vdpa_sim.use_va=0'] }
    const words = ['--kernel', '7', '--module', 'vdpa_sim.use_va=0']
    expect(checkLab(good(suites), other, ...words)).toMatchObject({ status: 0, stderr: '' })
    const candidate = { ...machine, kernel: '7.3-amd64' }
    expect(checkLab(good(suites), candidate, '--kernel', '7.3')).toMatchObject({ status: 0, stderr: '' })
  })

  test.each(losses)('is refused when something is lost: %s', (says, lose) => {
    const report = good(suites)
    lose(report)
    const { status, stderr } = checkLab(report, machine)
    expect(status).toBe(1)
    expect(stderr).toContain(says)
  })

  test('is refused when a device had no test that passed', () => {
    const report = good(suites)
    for (const suite of report.testResults)
      suite.assertionResults = suite.assertionResults.filter(({ fullName }) => !fullName.includes('vp_vdpa'))
    expect(checkLab(report, machine)).toMatchObject({ status: 1, stderr: 'no test passed on vp_vdpa\n' })
  })

  test.each([
    ['another kernel', ['--kernel', '7'], 'not 7'],
    ['a module as it is by default', ['--module', 'vdpa_sim.use_va=0'], 'not [vdpa_sim.use_va=0]'],
    ['no suite of that name', ['--test', 'kernel/nothing'], 'no suite was to run'],
  ])('is refused when it was of %s', (_, words, says) => {
    const { status, stderr } = checkLab(good(suites), machine, ...words)
    expect(status).toBe(1)
    expect(stderr).toContain(says)
  })

  test('is refused when the machine died before its end', () => {
    expect(checkLab(undefined, machine)).toMatchObject({ status: 1 })
    expect(checkLab(good(suites), undefined)).toMatchObject({ status: 1 })
  })
})
