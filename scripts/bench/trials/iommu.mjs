// MAP and UNMAP pairs a second into an address space of a simulated device: node iommu.mjs ring|direct. `ring`: requests of a guest's driver, 32 a kick, through a
// virtqueue of an IOMMU device that is served on the spot; `direct`: the same mappings asked for one by one. Prints one number.
import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)
const { GuestMemory, iommuDevice, openDeviceSync, openDevice, VirtioIommu } = require('../../../dist/index.js')
const { networkDevice, Simulator } = require('../../../dist/simulator/index.js')
const words = require('../../../dist/uapi/virtio-iommu.js')

const PAIRS = 32
const ROUNDS = 2000
const PAGE = 4096
const GUEST = 0x4000_0000n
const DOMAIN = 1
const ENDPOINT = 8

const backend = new Simulator({ scheduler: 'manual' })
const netPath = backend.add(networkDevice({ mac: '02:11:22:33:44:55' }))
const net = openDeviceSync(netPath, { backend, expect: 'net' })
const region = backend.allocate(PAIRS * PAGE)
const iovaOf = (pair) => 0x10_0000n + BigInt(pair * PAGE)

function direct() {
  const space = net.addressSpace(0)
  return () => {
    for (let pair = 0; pair < PAIRS; pair++)
      space.mapSync({ iova: iovaOf(pair), region, offset: pair * PAGE, size: PAGE })
    for (let pair = 0; pair < PAIRS; pair++) space.unmapSync({ iova: iovaOf(pair), size: BigInt(PAGE) })
  }
}

async function ring() {
  const memory = new GuestMemory([{ address: GUEST, region }])
  const iommu = new VirtioIommu({ memory, endpoints: [{ id: ENDPOINT, sink: net.addressSpace(0).sink }] })
  const path = backend.add(iommuDevice(iommu, { sync: true }))
  const device = await openDevice(path, { backend })
  await device.negotiate(['VIRTIO_IOMMU_F_MAP_UNMAP'])
  // A request and its answer lie in 64 bytes.
  const SLOT = 64
  const queue = await device.createQueue(0, { addressSpace: device.addressSpace(0), bufferBytes: 2 * PAIRS * SLOT })
  await device.start()
  const { ring: driver, buffers, buffersIova } = queue
  const put = (slot, request) => buffers.bytes(slot * SLOT, request.length).set(request)
  const ask = (slot, length) => {
    driver.begin()
    driver.pushAddress(buffersIova + BigInt(slot * SLOT), length, false)
    driver.pushAddress(buffersIova + BigInt(slot * SLOT + 48), 4, true)
    driver.commit(slot)
  }
  const settle = (count) => {
    queue.publish()
    backend.drain()
    for (let done = 0; done < count; done++) {
      const slot = driver.take()
      if (slot < 0) throw new Error(`${done} of ${count} requests were answered`)
      if (buffers.u8(slot * SLOT + 48) !== 0) throw new Error(`status ${buffers.u8(slot * SLOT + 48)}`)
    }
  }
  const none = (length) => new Uint8Array(length)
  const head = (type) => ({ type, head_reserved: none(3), domain: DOMAIN })
  const { VIRTIO_IOMMU_T_ATTACH, VIRTIO_IOMMU_T_MAP, VIRTIO_IOMMU_T_UNMAP } = words.iommuRequestTypes
  const attach = { ...head(VIRTIO_IOMMU_T_ATTACH), endpoint: ENDPOINT, flags: 0, reserved: none(4) }
  put(0, words.virtioIommuReqAttach.encode(attach))
  ask(0, words.virtioIommuReqAttach.size)
  settle(1)
  const { virtioIommuReqMap: map, virtioIommuReqUnmap: unmap } = words
  // A driver is another processor's work: its requests are written once.
  for (let pair = 0; pair < PAIRS; pair++) {
    const range = { virt_start: iovaOf(pair), virt_end: iovaOf(pair) + BigInt(PAGE) - 1n }
    const physical = GUEST + BigInt(pair * PAGE)
    put(pair, map.encode({ ...head(VIRTIO_IOMMU_T_MAP), ...range, phys_start: physical, flags: 3 }))
    put(PAIRS + pair, unmap.encode({ ...head(VIRTIO_IOMMU_T_UNMAP), ...range, reserved: none(4) }))
  }
  return () => {
    for (const [from, length] of [
      [0, map.size],
      [PAIRS, unmap.size],
    ]) {
      for (let pair = 0; pair < PAIRS; pair++) ask(from + pair, length)
      settle(PAIRS)
    }
  }
}

const round = process.argv[2] === 'ring' ? await ring() : direct()
for (let warm = 0; warm < ROUNDS; warm++) round()
const start = process.hrtime.bigint()
for (let count = 0; count < ROUNDS; count++) round()
console.log((PAIRS * ROUNDS) / (Number(process.hrtime.bigint() - start) / 1e9))
