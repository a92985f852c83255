// DPDK's testpmd as a driver whose frames come back: 64 bytes (60 in the ring: it counts the checksum of the wire) to the device's own address, as fast as it can, polled. For a
// machine with hugepages.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

/** The address that `flowgen` sends to. virtio-user gives it to a device of vhost-vdpa. */
export const FLOW_MAC = '00:01:02:03:04:01'

const REPORTS = 5
/** Of the time in which it starts. */
const IGNORED = 2

/**
 * Resolves with the median of the frames a second that it reports as received from `path`, a node of vhost-vdpa or a socket of vhost-user. `onSteady` is called when the time
 * that counts begins, and `onEnd` when it is over.
 */
export async function framesOf(path, { onSteady = () => undefined, onEnd = () => undefined, more = [] } = {}) {
  const environment = ['-l', '0,1', '--no-pci', '--huge-dir', process.env.LAB_HUGEPAGES, '-m', '256', ...more]
  const forwarding = ['--forward-mode=flowgen', '--nb-cores=1', '--stats-period', '1', '--auto-start', '-a']
  const testpmd = spawn(
    'dpdk-testpmd',
    [...environment, `--vdev=net_virtio_user0,path=${path},mac=${FLOW_MAC}`, '--', ...forwarding],
    { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, XDG_RUNTIME_DIR: '/tmp' } },
  )
  const deadline = setTimeout(() => testpmd.kill('SIGKILL'), 300_000)
  const errors = []
  testpmd.stderr.on('data', (text) => errors.push(text))
  const reports = []
  for await (const line of createInterface({ input: testpmd.stdout })) {
    const rate = /Rx-pps:\s+(\d+)/.exec(line)
    if (rate === null) continue
    reports.push(Number(rate[1]))
    if (reports.length === IGNORED) onSteady()
    if (reports.length !== REPORTS + IGNORED) continue
    onEnd()
    testpmd.kill('SIGTERM')
  }
  clearTimeout(deadline)
  const counted = reports.slice(IGNORED, REPORTS + IGNORED).sort((a, b) => a - b)
  if (counted.length < REPORTS || counted[0] === 0)
    throw new Error(`dpdk-testpmd looped nothing: ${reports.join(' ')}\n${errors.join('')}`)
  return counted[Math.floor(REPORTS / 2)]
}
