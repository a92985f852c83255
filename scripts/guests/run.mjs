// `node scripts/guests/run.mjs [--memory 96M] --script 'ip link' <socket>:<virtio id> …`: boots a guest whose devices are at these vhost-user sockets, runs
// the script in it with busybox, and ends with it. SIGTERM ends the guest as kill -9 would. Exit code 2: there is no guest to boot here, and stderr says why.
import { parseArgs } from 'node:util'
import { runGuest, whyNoGuest } from './uml.mjs'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    script: { type: 'string', default: '' },
    memory: { type: 'string', default: '96M' },
    check: { type: 'boolean' },
  },
})
const reason = whyNoGuest()
if (reason !== undefined) {
  console.error(reason)
  process.exit(2)
}
if (values.check !== true) {
  const { code, signal } = await runGuest({ script: values.script, devices: positionals, memory: values.memory })
  // It ends with 0 when it was switched off.
  process.exitCode = signal === null ? (code ?? 1) : 1
}
