// What `serve … --vduse` has made on the thread that serves it: each module is there, and makes the device that was asked for.

import { describe, expect, it, jest } from '@jest/globals'
import { writeFileSync } from 'node:fs'
import { moduleFor } from '../../lib/cli/serve'
import type { DeviceOps } from '../../lib/models/device-ops'
import { deviceIds } from '../../lib/uapi/virtio-ids'
import { decodeBlockConfig } from '../../lib/uapi/virtio-blk'
import { TemporaryFolder } from '../native/support'

/** As the thread does it, with an argument that was cloned. */
async function make(...asked: Parameters<typeof moduleFor>): Promise<DeviceOps & Partial<AsyncDisposable>> {
  const { module, export: name = 'default', argument } = moduleFor(...asked)
  const loaded = jest.requireActual<Record<string, (argument: unknown) => unknown>>(String(module))
  return (await loaded[name]?.(structuredClone(argument))) as DeviceOps
}

const capacityOf = (model: DeviceOps) => {
  const config = new Uint8Array(model.configSize)
  model.readConfig(0, config)
  return decodeBlockConfig(config).capacity
}

describe('the model of a device for the kernel', () => {
  it('is a network device', async () => {
    const model = await make('net', { mac: '02:00:00:00:00:09', queuePairs: 2 })
    expect([model.deviceId, model.queueCount]).toEqual([deviceIds.net, 5])
    expect(model).toMatchObject({ mac: '02:00:00:00:00:09' })
  })

  it('is a disk in memory', async () => {
    expect(capacityOf(await make('block', {}))).toBe(0x4_0000n)
    expect(capacityOf(await make('block', { size: 3 }))).toBe(3n * 2048n)
  })

  it('is a disk in a file, which is closed with it', async () => {
    using folder = new TemporaryFolder()
    const file = folder.file('disk')
    writeFileSync(file, new Uint8Array(8192))
    const model = await make('block', { file, lock: false })
    expect(capacityOf(model)).toBe(16n)
    await model[Symbol.asyncDispose]?.()
    expect(model).toMatchObject({ isClosed: true })
    await expect(make('block', { file: folder.file('none'), lock: false })).rejects.toMatchObject({ code: 'ENOENT' })
  })
})
