// `node scripts/guests/run.mjs [--machine uml|qemu|iommu|vdpa] [--memory 96M] --script 'ip link' <socket>:<virtio id> …`: boots a guest whose devices are at these
// vhost-user sockets, runs the script in it with busybox, and ends with it. SIGTERM ends the guest as kill -9 would. `--check` boots nothing; `--firmware` (vdpa)
// boots what is on the disk, and no Linux. `--monitor` (qemu) is the socket at which QEMU can be asked (QMP), and with `--incoming` it waits for a guest that another
// one sends. Exit code 2: there is no guest to boot here, and stderr says why.
import { parseArgs } from 'node:util'

const machines = {
  uml: { file: './uml.mjs', memory: '96M' },
  qemu: { file: './qemu.mjs', memory: '192M' },
  iommu: { file: './iommu.mjs', memory: '192M' },
  vdpa: { file: './vdpa.mjs', memory: '192M' },
}
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    machine: { type: 'string', default: 'uml' },
    script: { type: 'string', default: '' },
    memory: { type: 'string' },
    check: { type: 'boolean' },
    firmware: { type: 'boolean', default: false },
    monitor: { type: 'string' },
    incoming: { type: 'boolean', default: false },
  },
})
const machine = machines[values.machine]
if (machine === undefined) throw new Error(`--machine is one of ${Object.keys(machines).join(', ')}`)
const { runGuest, whyNoGuest } = await import(machine.file)
const reason = await whyNoGuest()
if (reason !== undefined) {
  console.error(reason)
  process.exit(2)
}
if (values.check !== true) {
  const { memory = machine.memory, script, firmware, monitor, incoming } = values
  const { code, signal } = await runGuest({ script, devices: positionals, memory, firmware, monitor, incoming })
  // It ends with 0 when it was switched off.
  process.exitCode = signal === null ? (code ?? 1) : 1
}
