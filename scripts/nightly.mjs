// `npm run nightly`: what takes hours. A hundred thousand sequences of the device's state machine, a million hostile peers of the rings, a hundred thousand
// requests to an IOMMU, the bugs of mutants.json, planted one at a time, 500 small changes by lot, 10,000 sequences on the lab's kernel (Debian, root),
// other people's drivers on devices that are served by VDUSE, VDUSE of Linux 7, and of 7.3, which has more to ask, and the lab's conformance suites with vdpa_sim loaded otherwise. Each with a new seed, which a failure shows; runs all of them, and fails when any failed.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const seed = String(Date.now() % 2 ** 31)
const jest = 'node_modules/jest/bin/jest.js'
/** Percent of small changes that tests must notice: some change nothing that can be seen, such as what is kept to be quick. */
const LEAST_SCORE = '75'
const jobs = [
  ['state machine', [jest, 'test/device/state-machine'], { STATE_MACHINE_RUNS: '100000', STATE_MACHINE_SEED: '0' }],
  ['rings', ['scripts/fuzz-rings.mjs'], {}],
  [
    'IOMMU',
    [jest, 'test/iommu/oracle', 'test/iommu/sleeping-sinks', 'test/iommu/hostile'],
    { IOMMU_REQUESTS: '100000', IOMMU_SEED: seed, FUZZ_SEED: seed },
  ],
  ['mutants', ['scripts/mutants.mjs'], {}],
  ['mutation', ['scripts/mutation.mjs', '--sample', '500', '--least', LEAST_SCORE], {}],
  ['kernel', ['scripts/lab/run.mjs', '--test', 'differential', '--env', `VDPA_SEED=${seed}`], {}],
  [
    'peers of VDUSE',
    [
      ...['scripts/lab/run.mjs', '--with', 'dpdk', '--env', 'VHOST_VDPA_LONG=1', '--patience', '1800'],
      ...['--test', 'vduse-peers'],
    ],
    {},
  ],
  ['VDUSE of Linux 7', ['scripts/lab/run.mjs', '--kernel', '7', '--test', 'kernel/vduse'], {}],
  [
    'VDUSE of Linux 7.3',
    ['scripts/lab/run.mjs', '--kernel', '7.3', '--test', 'kernel/vduse(-groups|-suspend)?[.]test'],
    {},
  ],
  ...['batch_mapping=0', 'use_va=0'].map((parameter) => [
    `kernel with vdpa_sim.${parameter}`,
    ['scripts/lab/run.mjs', '--module', `vdpa_sim.${parameter}`, '--test', 'kernel/(rows|conformance|control-plane)'],
    {},
  ]),
]

let failed = 0
for (const [name, words, env] of jobs) {
  console.log(`=== ${name}`)
  const options = { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } }
  if (spawnSync(process.execPath, words, options).status !== 0) failed++
}
console.log(`nightly: ${jobs.length - failed} of ${jobs.length} passed`)
process.exitCode = failed === 0 ? 0 : 1
