// The baseline of the frames row: DPDK's testpmd on the same device, 64-byte frames (60 in the ring: it counts the checksum of the wire) to the device's own
// address and back. Usage: node testpmd.mjs PATH, in a lab with hugepages. Prints the median of the frames a second that it reports as received.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

const REPORTS = 5
const [path] = process.argv.slice(2)
// The address that `flowgen` sends to. virtio-user gives it to the device.
const mac = '00:01:02:03:04:01'
const environment = ['-l', '0,1', '--no-pci', '--huge-dir', process.env.LAB_HUGEPAGES, '-m', '256']
const forwarding = ['--forward-mode=flowgen', '--nb-cores=1', '--stats-period', '1', '--auto-start', '-a']
const testpmd = spawn(
  'dpdk-testpmd',
  [...environment, `--vdev=net_virtio_user0,path=${path},mac=${mac}`, '--', ...forwarding],
  { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, XDG_RUNTIME_DIR: '/tmp' } },
)
const deadline = setTimeout(() => testpmd.kill('SIGKILL'), 90_000)
const errors = []
testpmd.stderr.on('data', (text) => errors.push(text))
const reports = []
for await (const line of createInterface({ input: testpmd.stdout })) {
  const rate = /Rx-pps:\s+(\d+)/.exec(line)
  if (rate === null) continue
  reports.push(Number(rate[1]))
  // The first ones are of the time in which it starts.
  if (reports.length === REPORTS + 2) testpmd.kill('SIGTERM')
}
clearTimeout(deadline)
const counted = reports.slice(2, REPORTS + 2).sort((a, b) => a - b)
if (counted.length < REPORTS || counted[0] === 0) {
  console.error(`dpdk-testpmd looped nothing: ${reports.join(' ')}\n${errors.join('')}`)
  process.exit(1)
}
console.log(counted[Math.floor(REPORTS / 2)])
