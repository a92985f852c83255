// `npm run bench`: every row against its baseline in the same run, each trial in a process of its own, taking turns. It asserts nothing. README.md beside
// it says how to read the table. `--lab` boots the kernel lab and adds the rows that need a device, `--guests` those of real guests; `--rounds N` (default 5), `--only PARTS` by their names.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { rows as intervalMapRows } from './interval-map.mjs'
import { rows as ringRows } from './rings.mjs'

const here = fileURLToPath(new URL('.', import.meta.url))
const root = fileURLToPath(new URL('../..', import.meta.url))
const built = `${root}build/bench`

const { values } = parseArgs({
  options: {
    lab: { type: 'boolean' },
    guests: { type: 'boolean' },
    inside: { type: 'boolean' },
    only: { type: 'string' },
    rounds: { type: 'string', default: '5' },
  },
})
const rounds = Number(values.rounds)

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)]
const number = (command, ...args) =>
  Number(execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] }))

/** `ratios`: where ours and the baseline were measured side by side, the ratio of each pair. */
function print({ name, unit, ours, baseline, ratios, reach, against = 'C' }) {
  const range = (list) => `${Math.min(...list).toPrecision(3)}–${Math.max(...list).toPrecision(3)}`
  const mine = `${median(ours).toPrecision(4)} ${unit} (${range(ours)})`
  if (baseline === undefined) console.log(`${name.padEnd(58)} ${mine}   reach: ${reach}`)
  else {
    const ratio = ratios === undefined ? median(ours) / median(baseline) : median(ratios)
    const spread = ratios === undefined ? '' : ` (${range(ratios)})`
    console.log(
      `${name.padEnd(58)} ${mine}   ${against}: ${median(baseline).toPrecision(4)} (${range(baseline)})   ratio ${ratio.toFixed(2)}x${spread}   reach: ${reach}`,
    )
  }
}

/** Runs ours and the baseline, where there is one, by turns; a number of each a round, as print() takes them. */
function takeTurns(runOurs, runBaseline) {
  const ours = []
  const baseline = runBaseline && []
  for (let round = 0; round < rounds; round++) {
    ours.push(runOurs())
    baseline?.push(runBaseline())
  }
  return { ours, baseline }
}

/** Rows of system calls; run inside the lab, where the device is. */
function deviceRows() {
  const path = process.env.VHOST_VDPA_NET
  const names = [
    ['status', 'GET_STATUS, device.status', 'at most 2.0x'],
    ['group', 'GET_VRING_GROUP, device.groups.of()', 'at most 2.0x'],
    ['maps', '2,000 maps of 4 KiB in a batch, and unmaps: each', 'at most 1.15x'],
    ['control', 'one control command, round trip', 'at most 1.3x'],
  ]
  for (const [trial, name, reach] of names) {
    const rates = takeTurns(
      () => number(process.execPath, `${here}trials/device.mjs`, trial, path),
      () => number(`${built}/device`, trial, path),
    )
    print({ name, unit: 'ns', ...rates, reach })
  }
}

function compile(name) {
  const command = ['-O2', '-static', '-o', `${built}/${name}`, `${here}${name}.c`]
  execFileSync(process.env.CC ?? 'cc', command, { stdio: 'inherit' })
}

/** Misses of vhost-net, each answered; where there is one. */
function missRow() {
  const name = 'misses of /dev/vhost-net answered a second'
  const lacks = ['/dev/vhost-net', '/dev/net/tun'].filter((path) => !existsSync(path))
  if (lacks.length > 0 || process.getuid?.() !== 0) {
    const why =
      lacks.length > 0 ? `no ${lacks.join(', no ')}: modprobe vhost_net tun` : 'it needs CAP_NET_ADMIN: run as root'
    console.log(`${name.padEnd(58)} skipped: ${why}, or npm run bench -- --lab`)
    return
  }
  if (!values.inside) compile('misses')
  const rates = takeTurns(
    () => number(process.execPath, `${here}trials/misses.mjs`, 'bench0'),
    () => number(`${built}/misses`, 'bench0'),
  )
  print({ name, unit: 'misses/s', ...rates, reach: 'at least 0.5x' })
}

/** Reads of a disk; run inside the lab. */
function blockRows() {
  const path = process.env.VHOST_VDPA_BLOCK
  const names = [
    ['interrupt', '4 KiB random reads a second, 16 in flight, on vdpa_sim_blk', 'at least 0.8x'],
    ['promise', 'the same by promises', 'no number asked'],
  ]
  for (const [mode, name, reach] of names) {
    const rates = takeTurns(
      () => number(process.execPath, `${here}trials/block.mjs`, path, mode),
      () => number(`${built}/block`, path),
    )
    print({ name, unit: 'reads/s', ...rates, reach })
  }
}

/** Reads of a disk that a program serves to the kernel's own driver; run inside the lab. */
function vduseRows() {
  const run = (whose) =>
    JSON.parse(
      execFileSync(process.execPath, [`${here}trials/vduse.mjs`, whose, `${built}/disk`], { encoding: 'utf8' }),
    )
  const { ours, baseline } = takeTurns(
    () => run('ours'),
    () => run('storage-daemon'),
  )
  for (const depth of [1, 32]) {
    const of = (trials) => trials.map((each) => each[depth])
    print({
      name: `4 KiB reads a second, ${depth} in flight, through virtio_vdpa (VDUSE)`,
      unit: 'reads/s',
      ours: of(ours),
      baseline: of(baseline),
      against: 'qemu-storage-daemon',
      reach: 'at least 0.3x, better 0.8x',
    })
  }
}

/** Frames through a network device; run inside the lab, whose machine has DPDK and pages for it. */
function netRow() {
  const path = process.env.VHOST_VDPA_NET
  const rates = takeTurns(
    () => number(process.execPath, `${here}trials/net.mjs`, path),
    () => number(process.execPath, `${here}trials/testpmd.mjs`, path),
  )
  const name = '64-byte frames a second, there and back, on vdpa_sim_net'
  print({ name, unit: 'frames/s', ...rates, against: 'testpmd', reach: 'at least 0.9x' })
}

/** What a front end's frames cost the process that bridges them, and what the bridge costs them; run inside the lab, as the row above. */
function bridgeRows() {
  const path = process.env.VHOST_VDPA_NET
  const { ours, baseline } = takeTurns(
    () => JSON.parse(execFileSync(process.execPath, [`${here}trials/bridge.mjs`, path], { encoding: 'utf8' })),
    () => number(process.execPath, `${here}trials/testpmd.mjs`, path),
  )
  const name = 'frames of testpmd, bridged to vdpa_sim_net'
  print({
    ...{ name, unit: 'frames/s', ours: ours.map(({ frames }) => frames) },
    ...{ baseline, against: 'without a bridge', reach: 'at least 0.9x' },
  })
  print({
    ...{ name: 'processor time of the bridge meanwhile', unit: '%', ours: ours.map(({ used }) => used) },
    reach: 'under 2',
  })
}

function memoryRows() {
  const names = [
    ['lifecycle', 'simulator: open, isolate, map 1 GiB, DRIVER_OK, close', 'ms', 'at most 20'],
    ['delay', 'event-loop delay p99 while 2,000 maps are under way', 'ms', 'at most idle + 5', 'idle'],
    ['fleet', 'simulator: 10,000 devices open and running, each', 'KiB', 'at most 64'],
    ['loopback', 'simulator: 64-byte frames looped', 'frames/s', 'at least 2,000,000'],
    ['collections', 'simulator: major collections in 1,000,000 frames looped', 'collections', 'none'],
  ]
  const run = (trial) => number(process.execPath, '--expose-gc', `${here}trials/memory.mjs`, trial)
  for (const [trial, name, unit, reach, against] of names) {
    const rates = takeTurns(() => run(trial), against === undefined ? undefined : () => run(against))
    print({ name, unit, ...rates, against, reach })
  }
}

/** What a guest's IOMMU costs: its requests against the same mappings asked for directly, in the same simulator. */
function iommuRow() {
  const run = (way) => number(process.execPath, `${here}trials/iommu.mjs`, way)
  const rates = takeTurns(
    () => run('ring'),
    () => run('direct'),
  )
  const name = 'MAP and UNMAP pairs a second by a guest’s IOMMU'
  print({ name, unit: 'pairs/s', ...rates, against: 'direct', reach: 'at least 0.5x' })
}

/** A guest's disk that this package serves, against one that QEMU's storage daemon serves. */
function guestDiskRow() {
  const run = (whose) => number(process.execPath, `${here}trials/guest.mjs`, whose)
  const rates = takeTurns(
    () => run('ours'),
    () => run('storage-daemon'),
  )
  const name = '4 KiB reads a second, one at a time, by a guest (vhost-user)'
  print({ name, unit: 'reads/s', ...rates, against: 'qemu-storage-daemon', reach: 'at least 0.5x' })
}

/** Two guests and the wire between them, which this package's models are, or DPDK's vhost in testpmd; where there is one. */
function guestWireRows() {
  if (!existsSync('/usr/bin/dpdk-testpmd')) {
    console.log('rows of two guests: as root, run: node scripts/lab/run.mjs --with dpdk --prepare')
    return
  }
  const run = (whose) =>
    JSON.parse(execFileSync(process.execPath, [`${here}trials/guest-net.mjs`, whose], { encoding: 'utf8' }))
  const { ours, baseline } = takeTurns(
    () => run('ours'),
    () => run('testpmd'),
  )
  const names = [
    ['pings', 'pings a second, one at a time, between two guests (vhost-user)', 'pings/s'],
    ['bytes', 'a TCP stream between the same', 'bytes/s'],
  ]
  for (const [field, name, unit] of names) {
    const of = (trials) => trials.map((each) => each[field])
    print({ name, unit, ours: of(ours), baseline: of(baseline), against: 'testpmd', reach: 'at least 0.5x' })
  }
}

/** What the diagnostics channels cost while nobody listens, by thousands of turns in one process, in as many processes as there are rounds. */
function diagnosticsRow() {
  const trial = () =>
    JSON.parse(execFileSync(process.execPath, [`${here}trials/diagnostics.mjs`], { encoding: 'utf8' }))
  const trials = Array.from({ length: rounds }, trial)
  const of = (field) => trials.map((each) => each[field])
  const name = 'simulator: device.status, diagnostics without a listener'
  const measured = { ours: of('ours'), baseline: of('baseline'), ratios: of('ratio') }
  print({ name, unit: 'ns', ...measured, against: 'no channel', reach: 'at most 1.02x' })
  const floor = of('floor')
  print({
    name: 'the same of two that are alike: what the measure is worth',
    unit: 'times',
    ours: floor,
    reach: '1.00x',
  })
}

/** A guest's queues through a shadow, against the same without one: on the simulator, by processor time, or on a device, by the clock. */
function shadowRows(path) {
  const where = path === undefined ? 'simulator, a second of processor time' : 'vdpa_sim_net, a second'
  const names = [
    ['shadowed', 'direct', `64-byte frames of a guest, shadowed, there and back, ${where}`, 'frames', 'at least 0.7x'],
    ['control-shadowed', 'control-direct', 'a control command of a guest through the shadow', 'ns', 'at most 1.5x'],
  ]
  const run = (trial) =>
    number(process.execPath, `${here}trials/shadow.mjs`, trial, ...(path === undefined ? [] : [path]))
  for (const [trial, against, name, unit, reach] of names) {
    const rates = takeTurns(
      () => run(trial),
      () => run(against),
    )
    print({ name, unit, ...rates, against: 'direct', reach })
  }
}

/** How long a guest stands still with 64 GiB mapped, against the same with 1 GiB, each part in the row: on the simulator, or between two vdpa_sim_net, one of them `path`. */
function moveRows(path) {
  const where = path === undefined ? '' : ', vdpa_sim_net'
  const names = [
    ['late', 'stop of a move, everything in it', 'none: what the others are measured by'],
    ['early', 'the same, mapped before it', 'at most 1.2x'],
    ['persist', 'the same, and IOTLB_PERSIST', 'at most 1.2x'],
    ['desc-asid', 'the same, and DESC_ASID', 'at most 1.2x'],
    ...(path === undefined ? [['last-pages', 'the pages that were written last, found', 'at most 1.2x']] : []),
    ['recover-early', 'recoverDevice(), mappings sent again', 'none: they are sent'],
    ['recover-persist', 'the same, and IOTLB_PERSIST', 'at most 1.2x'],
  ]
  const run = (way, gibibytes) => {
    const words = [way, String(gibibytes), ...(path === undefined ? [] : [path])]
    return JSON.parse(execFileSync(process.execPath, [`${here}trials/move.mjs`, ...words], { encoding: 'utf8' }))
  }
  for (const [way, words, reach] of names) {
    const name = `${words}${where}`
    const { ours, baseline } = takeTurns(
      () => run(way, 64),
      () => run(way, 1),
    )
    const [{ lacks, parts }] = ours
    if (lacks !== undefined) {
      console.log(`${name.padEnd(58)} skipped: the device does not offer ${lacks.join(', ')}`)
      continue
    }
    const details = parts.map((part, at) => {
      return `${part.name} ${median(ours.map((one) => one.parts[at].milliseconds)).toFixed(2)}`
    })
    const total = (trials) => trials.map((one) => one.total)
    print({
      ...{ name: details.length === 0 ? name : `${name}: ${details.join(', ')}`, unit: 'ms', reach },
      ...{ ours: total(ours), baseline: total(baseline), against: '1 GiB' },
    })
  }
}

/** Ring operations in memory, against C. */
function ringRowsInMemory() {
  for (const { name, unit, ours, baseline, ratio, spread, note } of ringRows({ rounds })) {
    const percent = (value) => `±${(100 * value).toFixed(0)} %`
    console.log(
      `${name.padEnd(58)} ${(ours / 1e6).toFixed(2)} M ${unit} (${percent(spread.ours)})   C: ${(baseline / 1e6).toFixed(2)} M (${percent(spread.baseline)})   ratio ${ratio.toFixed(3)}x   reach: at least 0.1x; ${note}`,
    )
  }
}

function mapRows() {
  for (const row of intervalMapRows({ rounds })) print(row)
}

/** Runs the rows that need a device in the emulated machine. */
function labRows() {
  for (const name of ['device', 'block', 'misses', 'disk']) compile(name)
  // What testpmd needs: its packages, pages of 2 MiB, and locked memory.
  const machine = ['--with', 'dpdk', '--hugepages', '256', '--memlock', 'unlimited', '--memory', '3G']
  const only = values.only === undefined ? [] : ['--only', values.only]
  const inside = ['node', `${here}run.mjs`, '--inside', '--rounds', String(rounds), ...only]
  const limit = ['--time-limit', String(600 + 240 * rounds)]
  const { status } = spawnSync(
    process.execPath,
    [`${root}scripts/lab/run.mjs`, ...machine, ...limit, '--', ...inside],
    { stdio: 'inherit' },
  )
  process.exitCode = status ?? 1
}

const inMemory = {
  rings: ringRowsInMemory,
  maps: mapRows,
  memory: memoryRows,
  iommu: iommuRow,
  diagnostics: diagnosticsRow,
  shadow: () => shadowRows(),
  move: () => moveRows(),
}
const onDevices = {
  device: deviceRows,
  shadow: () => shadowRows(process.env.VHOST_VDPA_NET),
  block: blockRows,
  vduse: vduseRows,
  net: netRow,
  bridge: bridgeRows,
  misses: missRow,
  move: () => moveRows(process.env.VHOST_VDPA_NET),
}

const only = values.only?.split(',')
const isWanted = (name) => only === undefined || only.includes(name)
const known = new Set([...Object.keys(inMemory), ...Object.keys(onDevices), 'guests', 'wire'])
for (const name of only ?? []) {
  if (known.has(name)) continue
  console.error(`--only ${name}: the parts are ${[...known].join(', ')}`)
  process.exit(2)
}

const run = (parts) => {
  for (const [name, rows] of Object.entries(parts)) if (isWanted(name)) rows()
}

if (values.inside) run(onDevices)
else {
  mkdirSync(built, { recursive: true })
  execFileSync(process.execPath, [`${root}scripts/build.mjs`], { stdio: 'inherit' })
  run(inMemory)
  if (values.guests) {
    if (isWanted('guests')) guestDiskRow()
    if (isWanted('wire')) guestWireRows()
  } else if (isWanted('guests') || isWanted('wire')) console.log('rows of real guests: npm run bench -- --guests')
  if (values.lab) labRows()
  else {
    if (isWanted('misses')) missRow()
    console.log('rows that need a device: npm run bench -- --lab')
  }
}
