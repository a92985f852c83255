// Who may open a node: on a simulator's pretended host, and in files of this machine that look like one.

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { diskFiles } from '../../lib/management/disk-files'
import type { HostFiles } from '../../lib/backend/host-files.js'
import { nodeAccess, setNodeAccess } from '../../lib/management/node-access'
import { untilUdevIsDone } from '../../lib/management/udev'
import { networkDevice, Simulator } from '../../lib/simulator/index'

const node = '/dev/vhost-vdpa-0'

describe('who may open a node of a simulator', () => {
  const simulator = new Simulator()
  simulator.add(networkDevice({ path: node }))
  const { files } = simulator.management

  it('is root at first, and then whom one says; the rest stays', async () => {
    expect(await nodeAccess(node, files)).toEqual({ mode: 0o600, owner: 0, group: 0 })
    await setNodeAccess(node, { mode: 0o660, group: 'kvm' }, files)
    await setNodeAccess(node, { owner: 107 }, files)
    await setNodeAccess(node, {}, files)
    expect(await nodeAccess(node, files)).toEqual({ mode: 0o660, owner: 107, group: 36 })
  })

  it.each([
    [{ mode: 0o1000 }, 'wish.mode must be permissions'],
    [{ owner: 'nobody here' }, 'owner must be a number, or a name in /etc/passwd of the host'],
    [{ mode: 0o777, group: 'nobody here' }, 'group must be a number, or a name in /etc/group of the host'],
    [{ owner: -1 }, 'owner must be a number, 0..4294967294'],
  ])('is refused as %j, and stays as it is', async (wish, sentence) => {
    const before = await nodeAccess(node, files)
    await expect(setNodeAccess(node, wish, files)).rejects.toThrow(sentence)
    expect(await nodeAccess(node, files)).toEqual(before)
  })

  it('has no label without SELinux, and is asked of nodes alone', async () => {
    const label = 'system_u:object_r:svirt_image_t:s0'
    const before = await nodeAccess(node, files)
    for (const wish of [{ label }, { label, mode: 0o777 }])
      await expect(setNodeAccess(node, wish, files)).rejects.toMatchObject({ code: 'ERR_VDPA_NOT_SUPPORTED' })
    expect(await nodeAccess(node, files)).toEqual(before)
    await expect(nodeAccess('/etc/passwd', files)).rejects.toThrow("node must be a node, such as '/dev/vhost-vdpa-0'")
    await expect(nodeAccess('/dev/vhost-vdpa-7', files)).rejects.toMatchObject({
      code: 'ENOENT',
      hint: 'a container sees the nodes of its host where /dev is mounted',
    })
    await expect(files.setAttributes('etc/passwd', { mode: 0o777 })).rejects.toMatchObject({ code: 'ENOENT' })
  })

  it('is as it was where the label is refused', async () => {
    const refused: HostFiles = {
      ...files,
      resolve: (path) => (path.startsWith('sys/fs/selinux') ? Promise.resolve(path) : files.resolve(path)),
      setLabel: () => Promise.reject(Object.assign(new Error('no such label'), { code: 'EINVAL' })),
    }
    const before = await nodeAccess(node, refused)
    const wish = { mode: 0o606, owner: 9, group: 8, label: 'a:b:c' }
    await expect(setNodeAccess(node, wish, refused)).rejects.toMatchObject({ code: 'EINVAL' })
    expect(await nodeAccess(node, refused)).toEqual(before)
  })
})

describe('who may open a file of this machine', () => {
  let root = ''
  const file = (path: string) => {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), '')
  }
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'vdpa-access-'))
    file('dev/vhost-vdpa-0')
    chmodSync(join(root, node), 0o600)
  })
  afterEach(() => rmSync(root, { recursive: true, force: true }))

  it('is seen and changed', async () => {
    const { uid, gid } = statSync(join(root, node))
    await setNodeAccess(node, { mode: 0o640, owner: uid, group: gid }, root)
    expect(await nodeAccess(node, root)).toEqual({ mode: 0o640, owner: uid, group: gid })
    expect(statSync(join(root, node)).mode & 0o777).toBe(0o640)
  })

  it('is named in the files of the host', async () => {
    mkdirSync(join(root, 'etc'))
    const { uid } = statSync(join(root, node))
    writeFileSync(join(root, 'etc/passwd'), `# a comment\nnobody\nqemu:x:${uid}:5::/:/bin/false\n`)
    await setNodeAccess(node, { owner: 'qemu' }, root)
    await expect(setNodeAccess(node, { owner: 'nobody' }, root)).rejects.toThrow('in /etc/passwd of the host')
  })

  it('has a label where there is SELinux, or the words of who refused it', async () => {
    file('sys/fs/selinux/enforce')
    expect(await nodeAccess(node, root)).not.toHaveProperty('label', '?')
    const label = 'system_u:object_r:svirt_image_t:s0'
    const given = await setNodeAccess(node, { label }, root).then(
      () => undefined,
      (failure: unknown) => failure,
    )
    // A file system without labels, or a user who may not give any, refuses them.
    if (given === undefined) expect((await nodeAccess(node, root)).label).toBe(label)
    else
      expect(given).toMatchObject({ code: expect.stringMatching(/^(EPERM|EACCES|EOPNOTSUPP)$/) as unknown, path: node })
    await expect(diskFiles(root).label('dev/none')).rejects.toMatchObject({ code: 'ENOENT' })
  })

  it('waits for udev, where there is one, and not for ever', async () => {
    await untilUdevIsDone('511:0', 60_000, root)
    file('run/udev/control')
    await untilUdevIsDone('511:0', 1, root)
    let isDone = false
    const waiting = untilUdevIsDone('511:0', 60_000, root).then(() => (isDone = true))
    file('run/udev/queue')
    file('run/udev/data/c511:0')
    const until = performance.now() + 50
    while (performance.now() < until) await new Promise((resolve) => setTimeout(resolve, 5))
    expect({ isDone, isBusy: existsSync(join(root, 'run/udev/queue')) }).toEqual({ isDone: false, isBusy: true })
    rmSync(join(root, 'run/udev/queue'))
    await waiting
  })
})
