// What leads to what in a trace, and on which track it lies.

import { describe, expect, it } from '@jest/globals'
import { Flows } from '../../lib/observe/flows.js'
import { Lanes } from '../../lib/observe/lanes.js'

describe('flows', () => {
  it('lead from the kicks of a queue to its next call, which ends them', () => {
    const flows = new Flows()
    expect([flows.kicked('a'), flows.kicked('a'), flows.kicked('b')]).toEqual([1, 1, 2])
    expect([flows.called('a'), flows.called('a'), flows.called('c')]).toEqual([1, undefined, undefined])
    expect([flows.kicked('a'), flows.called('b'), flows.called('a')]).toEqual([3, 2, 3])
  })

  it('lead from a miss to the update whose range has it, of the same node', () => {
    const flows = new Flows()
    expect([flows.missed('h0', 0x1000n), flows.missed('h0', 0x1000n), flows.missed('h0', 0x3000n)]).toEqual([1, 1, 2])
    expect(flows.missed('h1', 0x1000n)).toBe(3)
    expect(flows.updated('h0', 0x0n, 0x1000n)).toEqual([])
    expect(flows.updated('h0', 0x1000n, 0x1000n)).toEqual([1])
    expect(flows.updated('h0', 0x0n, 0x10000n)).toEqual([2])
    // Size 0 is all there is.
    expect(flows.updated('h1', 0n, 0n)).toEqual([3])
    expect(flows.missed('h0', 0x1000n)).toBe(4)
  })
})

describe('tracks', () => {
  it('have one thing at a time: what comes before another has ended lies below', () => {
    const lanes = new Lanes()
    lanes.name('h0', 'h0 /dev/vhost-vdpa-0')
    const of = (begin: number, end?: number) => lanes.of('h0', { begin, end })
    expect([of(0, 10), of(9, 20), of(10, 15), of(14), of(20, 30), of(40)]).toEqual([1, 2, 1, 3, 1, 1])
    expect(lanes.tracks()).toEqual([
      { id: 1, name: 'h0 /dev/vhost-vdpa-0' },
      { id: 2, name: 'h0 /dev/vhost-vdpa-0, 2 at a time', parent: 1 },
      { id: 3, name: 'h0 /dev/vhost-vdpa-0, 3 at a time', parent: 1 },
    ])
  })
})
