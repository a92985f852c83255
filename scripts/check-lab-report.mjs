// Reads what jest wrote in the kernel lab, and fails when something that should have run did not: a suite of a device, or everything.
import { readFileSync } from 'node:fs'

const expected = ['vdpa_sim_net', 'vdpa_sim_blk', 'vp_vdpa']
const report = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const tests = report.testResults.flatMap((suite) => suite.assertionResults)
const passed = tests.filter((test) => test.status === 'passed')
const failed = tests.filter((test) => test.status === 'failed')
const skipped = tests.filter((test) => ['pending', 'skipped', 'todo'].includes(test.status))

const problems = expected
  .filter((device) => !passed.some((test) => test.fullName.includes(device)))
  .map((device) => `no test passed on ${device}`)
if (passed.length === 0) problems.push('no test passed at all')
if (!report.success) problems.push('jest did not succeed')
for (const suite of report.testResults) {
  if (suite.assertionResults.length === 0) problems.push(`${suite.name.split('/').pop()} ran no test`)
}
for (const test of skipped) console.log(`skipped: ${test.fullName}`)
for (const problem of problems) console.error(problem)
console.log(`kernel lab: ${passed.length} passed, ${failed.length} failed, ${skipped.length} skipped`)
process.exitCode = problems.length === 0 ? 0 : 1
