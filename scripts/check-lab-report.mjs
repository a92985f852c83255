// Reads what jest wrote in the kernel lab, and fails when something that should have run did not: a suite of this checkout, a device, or everything.
// check-lab-report.mjs REPORT [PATTERN]: with a pattern, of the suites whose path matches, as --test chose them.
import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const { testPathIgnorePatterns } = createRequire(import.meta.url)('../jest.kernel.config.cjs')

/** The suites that the kernel's configuration does not leave out, by the names that their compiled files have. */
const suites = ['test/kernel', 'test/native']
  .flatMap((folder) => readdirSync(`${root}${folder}`).map((name) => `${folder}/${name}`))
  .filter((name) => name.endsWith('.test.ts'))
  .map((name) => name.replace(/\.ts$/, '.js'))
  .filter((name) => !testPathIgnorePatterns.some((pattern) => new RegExp(pattern).test(name)))
  .filter((name) => new RegExp(process.argv[3] ?? '').test(name))

const expected = ['vdpa_sim_net', 'vdpa_sim_blk', 'vp_vdpa']
const report = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const tests = report.testResults.flatMap((suite) => suite.assertionResults)
const passed = tests.filter((test) => test.status === 'passed')
const failed = tests.filter((test) => test.status === 'failed')
const skipped = tests.filter((test) => ['pending', 'skipped', 'todo'].includes(test.status))

const problems = expected
  .filter((device) => !passed.some((test) => test.fullName.includes(device)))
  .map((device) => `no test passed on ${device}`)
if (suites.length === 0) problems.push(`no suite matches ${process.argv[3]}`)
if (passed.length === 0) problems.push('no test passed at all')
if (!report.success) problems.push('jest did not succeed')
for (const name of suites) {
  const suite = report.testResults.find((result) => result.name.endsWith(`/${name}`))
  if (suite === undefined) problems.push(`${name} did not run`)
  else if (!suite.assertionResults.some((test) => test.status === 'passed')) problems.push(`no test of ${name} passed`)
}
for (const test of skipped) console.log(`skipped: ${test.fullName}`)
for (const problem of problems) console.error(problem)
console.log(`kernel lab: ${passed.length} passed, ${failed.length} failed, ${skipped.length} skipped`)
process.exitCode = problems.length === 0 ? 0 : 1
