// What a report of jest (--json) lacks: suites that did not run, tests that were skipped without a reason, a run that ended early. It judges; it runs nothing.
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

/** The suites in folders of this checkout, `test/kernel` for one, as paths from its root; without those of folders that are left out. */
export function suitesIn(folders, without = []) {
  return folders
    .flatMap((folder) => readdirSync(`${root}${folder}`, { recursive: true }).map((name) => `${folder}/${name}`))
    .filter((name) => name.endsWith('.test.ts') && !without.some((folder) => name.startsWith(`${folder}/`)))
    .sort()
}

/** The report at `path`; a sentence where there is none, or half of one. */
export function readReport(path) {
  let text
  try {
    text = readFileSync(path, 'utf8')
  } catch {
    return { problem: `there is no report ${path}: the tests did not come to their end` }
  }
  try {
    return { report: JSON.parse(text) }
  } catch {
    return { problem: `the report ${path} is cut short` }
  }
}

/** As jest has it: all tests that were not skipped passed, and some did. */
const hasPassed = ({ status }) => status === 'passed' || status === 'focused'

const isSkipped = ({ status }) => ['pending', 'skipped', 'todo', 'disabled'].includes(status)

/** What of `suites` the report does not show to have run, in sentences. A skipped test is right where its title, or that of a group around it, says why. */
export function lacksOf(report, suites) {
  const problems = []
  if (suites.length === 0) problems.push('no suite was to run')
  if (report.success !== true || report.wasInterrupted === true) problems.push('jest did not succeed')
  for (const name of suites) {
    const suite = report.testResults.find((result) => result.name.endsWith(`/${name}`))
    if (suite === undefined) problems.push(`${name} did not run`)
    else if (!hasPassed(suite)) problems.push(`${name} did not pass`)
    else if (!suite.assertionResults.some(({ status }) => status === 'passed'))
      problems.push(`no test of ${name} passed`)
  }
  const skipped = testsOf(report).filter(isSkipped)
  for (const { fullName } of skipped)
    if (!fullName.includes('(skipped: ')) problems.push(`skipped without a reason in its title: ${fullName}`)
  return problems
}

/** All tests of a report. */
export const testsOf = (report) => report.testResults.flatMap((suite) => suite.assertionResults)

/** Says what was found, and ends the process accordingly. */
export function conclude(what, report, problems) {
  const tests = report === undefined ? [] : testsOf(report)
  const count = (status) => tests.filter((test) => test.status === status).length
  const skipped = tests.filter(isSkipped)
  for (const { fullName } of skipped) console.log(`skipped: ${fullName}`)
  for (const problem of problems) console.error(problem)
  console.log(`${what}: ${count('passed')} passed, ${count('failed')} failed, ${skipped.length} skipped`)
  process.exitCode = problems.length === 0 ? 0 : 1
}
