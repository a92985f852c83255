// The seam's promises about writes: one, and many in one call; how far a sequence came, progress, and giving up.

import { expect } from '@jest/globals'
import type { Handle, WriteEachOutcome } from '../../lib/backend/backend.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { requests } from '../../lib/uapi/vhost.js'
import { liar, withLength } from '../lying-bytes.js'
import { ask, countMapped, expectMisuse, refusalOf, statusOf, updates } from './support.js'
import type { Scene, Suite } from './target.js'

function owned(scene: Scene): { handle: Handle; memory: MemoryRegion } {
  const memory = scene.allocate(4096)
  const handle = scene.open('network')
  ask(handle, 'VHOST_SET_OWNER')
  return { handle, memory }
}

/** Records of a long sequence: nearly as many as an address space has entries. */
const MANY = 2000

/** A sequence that is aborted while it is under way: the first of some where the thread that writes was not faster than this one, which may have been held up. */
async function aborted(
  scene: Scene,
  before: (handle: Handle) => void = () => undefined,
): Promise<{ handle: Handle; memory: MemoryRegion; outcome: WriteEachOutcome }> {
  for (let attempt = 0; ; attempt++) {
    const { handle, memory } = owned(scene)
    const controller = new AbortController()
    const sequence = handle.writeEachAsync(updates(memory, 0x1000n, MANY), 72, { signal: controller.signal })
    before(handle)
    controller.abort()
    const outcome = await sequence
    if (outcome.completed !== MANY || attempt === 20) return { handle, memory, outcome }
    handle.closeSync()
  }
}

type Verb = 'writeEach' | 'writeEachAsync'

/** The same promise for both forms. */
function bothForms(
  name: string,
  body: (
    scene: Scene,
    write: (handle: Handle, records: Uint8Array, stride?: number) => Promise<WriteEachOutcome>,
  ) => Promise<void>,
): Suite['tests'] {
  const run = (verb: Verb) => (scene: Scene) =>
    body(scene, async (handle, records, stride = 72) => await handle[verb](records, stride))
  return { [`writeEach ${name}`]: run('writeEach'), [`writeEachAsync ${name}`]: run('writeEachAsync') }
}

export const writesContract: Suite = {
  title: 'writes',
  tests: {
    'write returns what the system returned: 72 for a message, of 40 bytes too': (scene) => {
      const { handle, memory } = owned(scene)
      const record = updates(memory, 0x1000n, 1)
      expect(handle.write(record)).toBe(72)
      expect(handle.write(updates(memory, 0x2000n, 1).subarray(0, 40))).toBe(72)
      expect(countMapped(handle, memory, 0x1000n, 2)).toBe(2)
      expect(record).toEqual(updates(memory, 0x1000n, 1))
    },
    'write refused: the errno, and no request': async (scene) => {
      const { handle, memory } = owned(scene)
      handle.write(updates(memory, 0x1000n, 1))
      const path = scene.path('network')
      const error = await refusalOf(() => handle.write(updates(memory, 0x1000n, 1)))
      expect(error).toMatchObject({ code: 'EFAULT', errno: -14, syscall: 'write', path })
      expect(error.message.startsWith(`EFAULT: write on ${path}: `)).toBe(true)
      for (const length of [0, 3, 39])
        expect([length, await refusalOf(() => handle.write(new Uint8Array(length)))]).toMatchObject([
          length,
          { code: 'EINVAL' },
        ])
    },
    'write misused': async (scene) => {
      const handle = scene.open('network')
      for (const bytes of [undefined, null, 'bytes', 72, new Uint16Array(36), new ArrayBuffer(72)])
        await expectMisuse(() => handle.write(bytes as never), 'type', 'bytes')
    },
    ...bothForms('makes one write for each record, and returns their number', async (scene, write) => {
      const { handle, memory } = owned(scene)
      expect(await write(handle, updates(memory, 0x1000n, 100))).toEqual({ completed: 100 })
      expect(countMapped(handle, memory, 0x1000n, 100)).toBe(100)
    }),
    ...bothForms('of nothing is nothing', async (scene, write) => {
      const { handle } = owned(scene)
      expect(await write(handle, new Uint8Array(0))).toEqual({ completed: 0 })
    }),
    ...bothForms('takes the bytes that there are, whatever the array says', async (scene, write) => {
      const { handle, memory } = owned(scene)
      for (const [at, said] of [0, 72, 1000].entries()) {
        const records = liar(216, said)
        Uint8Array.prototype.set.call(records, updates(memory, BigInt(0x1000 * (1 + 3 * at)), 3))
        expect(await write(handle, records)).toEqual({ completed: 3 })
      }
      expect(countMapped(handle, memory, 0x1000n, 9)).toBe(9)
      await expectMisuse(() => write(handle, withLength(new Uint8Array(73), 72)), 'range', 'records')
      const one = liar(72, 4)
      Uint8Array.prototype.set.call(one, updates(memory, 0x10_0000n, 1))
      expect(handle.write(one)).toBe(72)
    }),
    'writeEachAsync works on the records as they were at the call': async (scene) => {
      const { handle, memory } = owned(scene)
      const records = updates(memory, 0x1000n, 200)
      const writing = handle.writeEachAsync(records, 72)
      records.fill(0)
      expect(await writing).toEqual({ completed: 200 })
      expect(countMapped(handle, memory, 0x1000n, 200)).toBe(200)
    },
    ...bothForms('leaves the records as they were', async (scene, write) => {
      const { handle, memory } = owned(scene)
      const records = updates(memory, 0x1000n, 3)
      await write(handle, records)
      expect(records).toEqual(updates(memory, 0x1000n, 3))
    }),
    ...bothForms('stops at the first refusal, and says how many were written before it', async (scene, write) => {
      const { handle, memory } = owned(scene)
      handle.write(updates(memory, 0x4000n, 1))
      const path = scene.path('network')
      const { completed, failure } = await write(handle, updates(memory, 0x1000n, 6))
      expect(completed).toBe(3)
      expect(failure).toMatchObject({ code: 'EFAULT', errno: -14, syscall: 'write', path })
      expect((failure as Error).message.startsWith(`EFAULT: write on ${path}: `)).toBe(true)
      // Three, and the one that was there; the fifth and sixth were not tried.
      expect(countMapped(handle, memory, 0x1000n, 6)).toBe(4)
    }),
    ...bothForms('refused at once has completed 0', async (scene, write) => {
      const { handle } = owned(scene)
      expect(await write(handle, new Uint8Array(144))).toMatchObject({ completed: 0, failure: { code: 'EINVAL' } })
    }),
    ...bothForms('misused', async (scene, write) => {
      const handle = scene.open('network')
      for (const records of [undefined, null, 'bytes', 72])
        await expectMisuse(() => write(handle, records as never), 'type', 'records')
      await expectMisuse(() => write(handle, new Uint8Array(71)), 'range', 'records')
      for (const stride of [0, -1, 1.5, NaN])
        await expectMisuse(() => write(handle, new Uint8Array(72), stride), 'range', 'stride')
      await expectMisuse(() => write(handle, new Uint8Array(72), '72' as never), 'type', 'stride')
    }),
    'a synchronous write does not overtake a sequence': async (scene) => {
      const { handle, memory } = owned(scene)
      const sequence = handle.writeEachAsync(updates(memory, 0x1000n, 1000), 72)
      // The last page of the sequence: had it been overtaken, this would be accepted.
      expect(await refusalOf(() => handle.write(updates(memory, 0x1000n + 999n * 4096n, 1)))).toMatchObject({
        code: 'EFAULT',
      })
      expect(await sequence).toEqual({ completed: 1000 })
    },
    'a synchronous ioctl does not wait for the end of a sequence, and one that is asked behind an asynchronous ioctl does':
      async (scene) => {
        const { handle, memory, outcome } = await aborted(scene, (own) => expect(statusOf(own)).toBe(0))
        expect(outcome.completed).toBeLessThan(MANY)
        const iova = 0x4000_0000n
        const whole = handle.writeEachAsync(updates(memory, iova, 40), 72)
        const status = new Uint8Array(1)
        const later = handle.ioctlAsync(requests.VHOST_VDPA_GET_STATUS.number, status)
        expect(statusOf(handle)).toBe(0)
        // Both were before it: the last record of the sequence is there.
        expect(countMapped(handle, memory, iova + 39n * 4096n, 1)).toBe(1)
        expect([await whole, await later, status[0]]).toEqual([{ completed: 40 }, 0, 0])
      },
    'writeEachAsync tells how far it came: never back, and the whole at the end': async (scene) => {
      const { handle, memory } = owned(scene)
      const told: number[] = []
      const onProgress = (completed: number): void => void told.push(completed)
      expect(await handle.writeEachAsync(updates(memory, 0x1000n, 1500), 72, { onProgress })).toEqual({
        completed: 1500,
      })
      expect(told.at(-1)).toBe(1500)
      expect(told).toEqual([...told].sort((a, b) => a - b))
    },
    'writeEachAsync ends when its listener throws, with what it threw, undefined too, and the count': async (scene) => {
      const { handle, memory } = owned(scene)
      for (const [index, thrown] of [new Error('enough'), undefined].entries()) {
        const onProgress = (): void => {
          // eslint-disable-next-line @typescript-eslint/only-throw-error -- a program may throw anything
          throw thrown
        }
        const iova = 0x1000n + BigInt(index) * 0x100_0000n
        const outcome = await handle.writeEachAsync(updates(memory, iova, 900), 72, { onProgress })
        expect(outcome).toHaveProperty('failure', thrown)
        expect(outcome.completed).toBe(countMapped(handle, memory, iova, 900))
      }
    },
    'writeEachAsync with a listener that is none is misuse': async (scene) => {
      const handle = scene.open('network')
      const options = { onProgress: 7 as never }
      await expectMisuse(() => handle.writeEachAsync(new Uint8Array(0), 72, options), 'type', 'options.onProgress')
    },
    'writeEachAsync with a signal that is none is misuse, and begins nothing': async (scene) => {
      const { handle, memory } = owned(scene)
      for (const signal of [null, 7, { aborted: false }]) {
        const options = { signal: signal as never, onProgress: () => undefined }
        await expectMisuse(
          () => handle.writeEachAsync(updates(memory, 0x1000n, 1), 72, options),
          'type',
          'options.signal',
        )
      }
      expect(countMapped(handle, memory, 0x1000n, 1)).toBe(0)
    },
    'an abort before writeEachAsync writes nothing: ERR_VDPA_CANCELED with completed 0': async (scene) => {
      const { handle, memory } = owned(scene)
      const reason = new Error('not wanted')
      const signal = AbortSignal.abort(reason)
      const outcome = await handle.writeEachAsync(updates(memory, 0x1000n, 3), 72, { signal })
      expect(outcome).toMatchObject({ completed: 0, failure: { code: 'ERR_VDPA_CANCELED', cause: reason } })
      expect(outcome.failure).not.toHaveProperty('errno')
      expect(countMapped(handle, memory, 0x1000n, 3)).toBe(0)
    },
    'an abort during writeEachAsync stops between records: completed is what was written': async (scene) => {
      const { handle, memory, outcome } = await aborted(scene)
      const { completed = -1, failure } = outcome
      expect(failure).toMatchObject({ code: 'ERR_VDPA_CANCELED', path: scene.path('network') })
      expect(completed).toBeLessThan(MANY)
      expect(countMapped(handle, memory, 0x1000n, 200)).toBe(Math.min(completed, 200))
    },
    'an abort after writeEachAsync changes nothing': async (scene) => {
      const { handle, memory } = owned(scene)
      const controller = new AbortController()
      expect(await handle.writeEachAsync(updates(memory, 0x1000n, 3), 72, { signal: controller.signal })).toEqual({
        completed: 3,
      })
      controller.abort()
      expect(countMapped(handle, memory, 0x1000n, 3)).toBe(3)
    },
    'close() waits for a sequence under way': async (scene) => {
      const { handle, memory } = owned(scene)
      const sequence = handle.writeEachAsync(updates(memory, 0x1000n, 500), 72)
      await handle.close()
      expect(await sequence).toEqual({ completed: 500 })
    },
  },
}
