import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { Fifo } from '../../lib/base/fifo.js'

describe('a queue from which one may be taken out of the middle', () => {
  test('does what a list does', () => {
    const operation = fc.oneof(
      { weight: 3, arbitrary: fc.constant('push') },
      { weight: 2, arbitrary: fc.constant('shift') },
      { weight: 1, arbitrary: fc.nat(5000) },
    )
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 400 }), (operations) => {
        const fifo = new Fifo<{ readonly n: number }>()
        let list: { readonly n: number }[] = []
        let made = 0
        for (const step of operations) {
          if (step === 'push') {
            const item = { n: made++ }
            fifo.push(item)
            list.push(item)
          } else {
            const item = step === 'shift' ? list[0] : list[Number(step) % Math.max(1, list.length)]
            if (step === 'shift') expect(fifo.shift()).toBe(item)
            else if (item !== undefined) expect(fifo.delete(item)).toBe(true)
            list = list.filter((other) => other !== item)
          }
          expect(fifo.first).toBe(list[0])
          expect(fifo.size).toBe(list.length)
        }
      }),
    )
  })

  test('keeps the order past the places that were given back', () => {
    const fifo = new Fifo<{ readonly n: number }>()
    for (let n = 0; n < 5000; n++) fifo.push({ n })
    for (let n = 0; n < 4990; n++) {
      expect(fifo.first?.n).toBe(n)
      fifo.delete(fifo.first as { readonly n: number })
    }
    expect(fifo.delete({ n: 4995 })).toBe(false)
    const rest: number[] = []
    for (let item = fifo.first; item !== undefined && fifo.delete(item); item = fifo.first) rest.push(item.n)
    expect(rest).toEqual([4990, 4991, 4992, 4993, 4994, 4995, 4996, 4997, 4998, 4999])
  })
})
