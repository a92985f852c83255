// A descriptor in the hands of two processes: who called SET_OWNER owns the device, and the other one is told so. Real processes, so the kernel only.

import { spawnSync } from 'node:child_process'
import { openSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from '@jest/globals'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { openDevice } from '../../lib/open.js'
import { requests } from '../../lib/uapi/vhost.js'
import { labVariable } from './support.js'

const kernelBackend = join(__dirname, '..', '..', 'lib', 'kernel', 'kernel-backend.js')

/** Has a process of its own call SET_OWNER on a descriptor that it inherits. */
function ownElsewhere(fd: number): void {
  const program = `
    const { KernelBackend } = require(${JSON.stringify(kernelBackend)})
    new KernelBackend().openFd(3).ioctl(${requests.VHOST_SET_OWNER.number}, 0)
    process.exit(0)`
  const { status, stderr } = spawnSync(process.execPath, ['-e', program], { stdio: ['ignore', 'ignore', 'pipe', fd] })
  if (status !== 0) throw new Error(`the other process ended with ${status}: ${String(stderr)}`)
}

test('a device that another process owns is refused with ERR_VDPA_NO_OWNER, and the descriptor is closed', async () => {
  const path = labVariable('VHOST_VDPA_NET')
  const fd = openSync(path, 'r+')
  ownElsewhere(fd)
  await expect(openDevice({ fd, path }, { backend: new KernelBackend() })).rejects.toMatchObject({
    code: 'ERR_VDPA_NO_OWNER',
    path,
    cause: { code: 'EPERM' },
  })
  // The node opens once at a time: that it opens shows that nothing is left of the descriptor.
  await (await openDevice(path, { backend: new KernelBackend() })).close()
})
