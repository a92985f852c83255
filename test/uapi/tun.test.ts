import { expect, test } from '@jest/globals'
import { IFNAMSIZ, tunFlags, tunRequest, tunRequests } from '../../lib/uapi/tun'
import { hex } from './support'

test('the requests and flags are those of the header', () => {
  expect(tunRequests).toEqual({ TUNSETIFF: 0x400454ca, TUNSETOFFLOAD: 0x400454d0, TUNSETVNETHDRSZ: 0x400454d8 })
  expect(tunFlags).toEqual({ IFF_TAP: 2, IFF_NO_PI: 0x1000, IFF_VNET_HDR: 0x4000 })
  expect(IFNAMSIZ).toBe(16)
})

test('a request names an interface', () => {
  const name = new Uint8Array(IFNAMSIZ)
  name.set(Buffer.from('tap0'))
  expect(tunRequest.encode({ name, flags: 0x5002 })).toEqual(
    hex(`74617030 00000000 00000000 00000000 0250 ${'00'.repeat(22)}`),
  )
})
