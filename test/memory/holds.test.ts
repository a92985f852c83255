// Holds on memory: who is named, when the owner is told, and what a hold keeps.

import { expect, jest, test } from '@jest/globals'

import { Holds } from '../../lib/memory/holds.js'

test('names the holders, oldest first, until each gave up', () => {
  const holds = new Holds()
  const [first, second] = [holds.take('a device', {}), holds.take('a device', {})]
  const third = holds.take('another', {})
  expect(holds.names).toEqual(['a device', 'a device', 'another'])
  first.close()
  first.close()
  expect(holds.names).toEqual(['a device', 'another'])
  expect([first.isClosed, second.isClosed, third.holder]).toEqual([true, false, 'another'])
  third[Symbol.dispose]()
  second.close()
  expect(holds.names).toEqual([])
})

test('tells the region of the first hold and of the last', () => {
  const holds = new Holds()
  const onChange = jest.fn<(isHeld: boolean) => void>()
  const [first, second] = [holds.take('a', {}, onChange), holds.take('b', {}, onChange)]
  first.close()
  expect(onChange.mock.calls).toEqual([[true]])
  second.close()
  expect(onChange.mock.calls).toEqual([[true], [false]])
  holds.take('c', {}, onChange).close()
  expect(onChange.mock.calls).toEqual([[true], [false], [true], [false]])
})

test('refuses in the name of the holders', () => {
  const holds = new Holds()
  const refuse = () => holds.refuseWhileHeld('memory of 1 byte')
  expect(refuse).not.toThrow()
  const taken = ['a', 'b', 'c'].map((name) => holds.take(name, {}))
  expect(refuse).toThrow('ERR_VDPA_MEMORY_HELD: memory of 1 byte is held by a and b and 1 more: unmap it there first')
  taken.pop()?.close()
  expect(refuse).toThrow('is held by a and b: unmap')
  for (const hold of taken) hold.close()
  expect(refuse).not.toThrow()
})

test.each([undefined, 1, ''])('refuses the holder %p', (holder) => {
  const holds = new Holds()
  expect(() => holds.take(holder as string, {})).toThrow(/^holder must be/)
  expect(holds.names).toEqual([])
})
