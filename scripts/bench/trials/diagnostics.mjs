// What the diagnostics channels cost while nobody listens: node diagnostics.mjs. A status read on the simulator, through the transport as it is, or with its requests handed on without a look at the
// channel. Both in this process, by turns of a tenth of a millisecond, so that whatever a shared machine does falls on both or on few; each is loaded twice, the second time the other way round, so that neither has the
// better place. Prints JSON, medians of all rounds: nanoseconds of a read, the ratio of a round, and `floor`: the ratio of pairs that are alike, which is what the measure itself is worth.
import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)
const dist = require.resolve('../../../dist/index.js').replace(/index\.js$/, '')
const READS = 1000
const ROUNDS = Number(process.argv[2] ?? 4000)
const WARM = 1000
const path = '/dev/vhost-vdpa-0'

/** A package of its own, with code that the compiler sees for the first time. */
function load(isPlain) {
  for (const file of Object.keys(require.cache)) if (file.startsWith(dist)) delete require.cache[file]
  const transport = require(`${dist}transport/ask.js`)
  const { ask } = transport
  const plainAsk = (handle, request, argument) => handle.ioctl(request, argument)
  // Set in both: what was never set anew is a constant to the compiler.
  for (const each of [undefined, isPlain ? plainAsk : ask]) transport.ask = each
  const { openDeviceSync } = require(`${dist}index.js`)
  const { networkDevice, Simulator } = require(`${dist}simulator/index.js`)
  const backend = new Simulator()
  backend.add(networkDevice({ path }))
  const device = openDeviceSync(path, { backend })
  device.negotiateSync([])
  // A function of its own, too: one that both shared would be compiled for both.
  const read = new Function(
    'device',
    'reads',
    'let sum = 0; for (let n = 0; n < reads; n++) sum += device.status; return sum',
  )
  return () => {
    const start = process.hrtime.bigint()
    if (read(device, READS) === 0) throw new Error('the device says nothing')
    return Number(process.hrtime.bigint() - start) / READS
  }
}

const [told, plain, plainAgain, toldAgain] = [false, true, true, false].map(load)
const round = (count) => {
  // Whoever comes first does so in every other round only.
  const turns = count % 2 === 0 ? [told, plain, plainAgain, toldAgain] : [plainAgain, toldAgain, told, plain]
  const took = new Map(turns.map((turn) => [turn, turn()]))
  const sum = (one, other) => ((took.get(one) ?? 0) + (took.get(other) ?? 0)) / 2
  return {
    ours: sum(told, toldAgain),
    baseline: sum(plain, plainAgain),
    alike: sum(told, plain) / sum(toldAgain, plainAgain),
  }
}
for (let count = 0; count < WARM; count++) round(count)
const rounds = Array.from({ length: ROUNDS }, (_, count) => round(count))
const median = (list) => list.sort((a, b) => a - b)[Math.floor(list.length / 2)]
console.log(
  JSON.stringify({
    ours: median(rounds.map(({ ours }) => ours)),
    baseline: median(rounds.map(({ baseline }) => baseline)),
    ratio: median(rounds.map(({ ours, baseline }) => ours / baseline)),
    floor: median(rounds.map(({ alike }) => alike)),
  }),
)
