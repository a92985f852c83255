// Memory that translations lead into: the device's own system's, or none.

import { describe, expect, test } from '@jest/globals'
import { systemError } from '../../lib/base/errors.js'
import type { Handle } from '../../lib/backend/backend.js'
import type { MissFault } from '../../lib/misses/miss-faults.js'
import { MissServer } from '../../lib/misses/miss-server.js'
import { missPort } from '../../lib/misses/port.js'
import { RegionTranslator } from '../../lib/misses/region-translator.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import { until } from '../until.js'
import { TestPort } from './support.js'

describe('memory of another backend', () => {
  test('is no answer: the device is given nothing that leads elsewhere', async () => {
    const [simulator, other] = [new Simulator(), new Simulator()]
    const iotlb = simulator.demandIotlb()
    const translator = new RegionTranslator([
      { iova: 0n, region: simulator.allocate(4096) },
      { iova: 0x1000n, region: other.allocate(4096) },
      { iova: 0x2000n, region: simulator.share(other.allocate(4096)) },
    ])
    const faults: MissFault[] = []
    const server = new MissServer(iotlb, translator, { onFault: (fault) => faults.push(fault) })
    await iotlb.writeMemory(0n, Uint8Array.of(1))
    await iotlb.writeMemory(0x2000n, Uint8Array.of(2))
    const standing = iotlb.writeMemory(0x1000n, Uint8Array.of(3))
    await until(() => faults.length > 0)
    const failure = expect.objectContaining({ code: 'ERR_VDPA_NOT_SHARED', path: iotlb.path }) as unknown
    expect(faults).toMatchObject([{ reason: 'refused', request: { iova: 0x1000n }, failure }])
    expect(iotlb.counters).toMatchObject({ updates: 2 })
    await expect(server.prefetch({ first: 0x1000n, last: 0x1fffn })).rejects.toMatchObject({
      code: 'ERR_VDPA_NOT_SHARED',
    })
    server.close()
    iotlb.end()
    await expect(standing).rejects.toMatchObject({ code: 'EBADFD' })
  })

  test('is asked of the backend of a node, where that is given', () => {
    const handle = { path: '/dev/vhost-net', read: () => 0, onReadable: () => undefined } as unknown as Handle
    const region = new Simulator().allocate(4096)
    expect('reaches' in missPort(handle)).toBe(false)
    expect(missPort(handle, new Simulator()).reaches?.(region)).toBe(false)
    expect(() => missPort(handle, null as unknown as Simulator)).toThrow(TypeError)
  })
})

test('memory whose translation the device refuses is held no more than it was before', () => {
  const region = new Simulator().allocate(0x3000)
  const own = new RegionTranslator([{ iova: 0x1000n, region }], 0x1000)
  const port = new TestPort()
  const server = new MissServer(port, own, { onFault: () => undefined })
  port.refusal = systemError('EFAULT', 14, 'as planned', {})
  port.miss(0x1000n)
  expect(region.holders).toEqual([])
  port.refusal = undefined
  port.miss(0x1000n)
  port.refusal = systemError('EFAULT', 14, 'as planned', {})
  port.miss(0x3000n)
  expect(region.holders).toEqual(['/dev/vhost-net [0x1000, 0x1fff]'])
  port.refusal = undefined
  server.invalidate({ first: 0x1000n, last: 0x1fffn })
  expect(region.holders).toEqual([])
  server.close()
})
