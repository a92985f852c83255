// Reads what a kernel lab left (`--out FOLDER`), and fails when something that should have run did not: a suite of this checkout, a device, the kernel or the
// parameters of a module that were asked for, or everything.
// check-lab-report.mjs FOLDER [--kernel SERIES] [--module NAME.PARAMETER=VALUE] [--test PATTERN]: the options as the lab had them.
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { conclude, lacksOf, readReport, suitesIn, testsOf } from './reports.mjs'

const { testPathIgnorePatterns } = createRequire(import.meta.url)('../jest.kernel.config.cjs')
const { values, positionals } = parseArgs({
  options: {
    kernel: { type: 'string', default: '6.12' },
    module: { type: 'string', multiple: true, default: [] },
    test: { type: 'string', default: '' },
  },
  allowPositionals: true,
})
const [folder] = positionals

/** The suites that the kernel's configuration does not leave out, by the names that their compiled files have. */
const suites = suitesIn(['test/kernel', 'test/native'])
  .map((name) => name.replace(/\.ts$/, '.js'))
  .filter((name) => !testPathIgnorePatterns.some((pattern) => new RegExp(pattern).test(name)))
  .filter((name) => new RegExp(values.test).test(name))

/** What the machine was, as the guest wrote it. */
function machineProblems({ kernel = 'unknown', parameters = [], absent = [] }) {
  const problems = []
  // What the host cannot provide is skipped by name, as in the tests.
  for (const { name, reason } of absent) console.log(`skipped: ${name}, ${reason}`)
  if (!['.', '-'].some((end) => kernel.startsWith(`${values.kernel}${end}`)))
    problems.push(`the lab was Linux ${kernel}, not ${values.kernel}`)
  if ([...parameters].sort().join(' ') !== [...values.module].sort().join(' '))
    problems.push(`modules had the parameters [${parameters.join(' ')}], not [${values.module.join(' ')}]`)
  return problems
}

/** With a module loaded otherwise it is about the devices of that module: vdpa_sim's. */
const devices = ['vdpa_sim_net', 'vdpa_sim_blk', ...(values.module.length === 0 ? ['vp_vdpa'] : [])]

function deviceProblems(report) {
  const passed = testsOf(report).filter(({ status }) => status === 'passed')
  return devices
    .filter((device) => !passed.some(({ fullName }) => fullName.includes(device)))
    .map((device) => `no test passed on ${device}`)
}

const machine = readReport(join(folder, 'devices.json'))
const { report, problem } = readReport(join(folder, 'jest.json'))
const problems = machine.report === undefined ? [machine.problem] : machineProblems(machine.report)
problems.push(...(report === undefined ? [problem] : [...lacksOf(report, suites), ...deviceProblems(report)]))
conclude('kernel lab', report, problems)
