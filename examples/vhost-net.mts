import { openVhostNet } from 'vhost-vdpa'

await using net = await openVhostNet('tap0', {
  granule: 4096, // the kernel is given a page at a time
  onFault: ({ reason, request }) => console.error(reason, request?.iova.toString(16)),
})

const own = [0x02, 0x00, 0x00, 0x00, 0x00, 0x77]
const request = new Uint8Array(60) // ARP: who has 192.0.2.1? Tell 192.0.2.2
request.set([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, ...own, 0x08, 0x06])
request.set([0, 1, 8, 0, 6, 4, 0, 1, ...own, 192, 0, 2, 2, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1], 14)
const isReply = (frame: Uint8Array) => frame[12] === 0x08 && frame[13] === 0x06 && frame[21] === 2

for (const round of ['at first', 'after an invalidation']) {
  const before = net.misses.counters.misses
  net.send(request)
  const signal = AbortSignal.timeout(10_000)
  let frame = await net.nextFrame({ signal })
  while (!isReply(frame)) frame = await net.nextFrame({ signal }) // the host has more to say
  const address = Array.from(frame.subarray(22, 28), (byte) => byte.toString(16).padStart(2, '0')).join(':')
  console.log(`${round}: 192.0.2.1 is at ${address}, ${net.misses.counters.misses - before} pages were missed`)
  net.misses.invalidate() // what the kernel was told is true no more
}
