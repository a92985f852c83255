// What the public types promise. Compiled and never run: public-api.test.ts asks the compiler, and a line marked as an error that is none is an error.

import {
  type AddressSpace,
  type Backend,
  type BlockDriver,
  type BlockFeature,
  type Closeable,
  type DeviceKind,
  type FeatureSet,
  type GuestMemory,
  type IsolationVerdict,
  isVdpaError,
  KernelBackend,
  type Mapping,
  type MemoryRegion,
  moveDevice,
  type MoveDeviceOptions,
  type MoveResult,
  NetControlQueue,
  NetDriver,
  type NetFeature,
  openDevice,
  openDeviceSync,
  RecordingBackend,
  FaultyBackend,
  type RequestName,
  requests,
  type VdpaDevice,
  type VdpaError,
  type Vring,
} from '../../lib/index.js'
import { blockDevice, customDevice, networkDevice, Simulator } from '../../lib/simulator/index.js'

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
/** Compiles when the types are the same, any and never included. */
declare function same<A, B>(proof: Equal<A, B>): void
declare function take<T>(value: T): void

declare const net: VdpaDevice<'net'>
declare const block: VdpaDevice<'block'>
declare const some: VdpaDevice
declare const space: AddressSpace
declare const region: MemoryRegion
declare const guest: GuestMemory
declare const vring: Vring
declare const unknownValue: unknown

/** Opening: the kind that is expected is the kind of the device, in both forms. */
export async function opening(): Promise<void> {
  same<Awaited<ReturnType<typeof openDevice<'net'>>>, VdpaDevice<'net'>>(true)
  const opened = await openDevice('/dev/vhost-vdpa-0', { expect: 'net' })
  same<typeof opened, VdpaDevice<'net'>>(true)
  const sync = openDeviceSync({ fd: 3, path: 'passed' }, { expect: 'block', backend: new Simulator() })
  same<typeof sync, VdpaDevice<'block'>>(true)
  const any = await openDevice('/dev/vhost-vdpa-0')
  take<VdpaDevice<DeviceKind>>(any)
  same<typeof any, VdpaDevice<DeviceKind>>(true)
  same<typeof any.kind, DeviceKind | undefined>(true)
  await using closed = opened
  using closedSync = sync
  take<Closeable>(closed)
  take<Disposable>(closedSync)
  // @ts-expect-error a kind that there is not
  await openDevice('/dev/vhost-vdpa-0', { expect: 'network' })
  // @ts-expect-error neither a path nor a descriptor
  await openDevice(3)
  // @ts-expect-error an object with no descriptor
  await openDevice({ path: '/dev/vhost-vdpa-0' })
}

/** Features: names of this kind of device, bit numbers, or the word. */
export async function features(): Promise<void> {
  same<Awaited<ReturnType<typeof net.negotiate>>, FeatureSet<NetFeature>>(true)
  same<typeof block.features, FeatureSet<BlockFeature> | undefined>(true)
  await net.negotiate(['VIRTIO_NET_F_MAC', 5, 'VIRTIO_F_VERSION_1'], { optional: 1n << 17n })
  await net.negotiate(0x1_0000_0020n)
  await block.negotiate(['VIRTIO_BLK_F_FLUSH'])
  net.features?.has('VIRTIO_NET_F_CTRL_VQ')
  // @ts-expect-error a feature of another kind of device
  await net.negotiate(['VIRTIO_BLK_F_FLUSH'])
  // @ts-expect-error a feature that nobody has
  net.features?.has('VIRTIO_NET_F_MACS')
  // @ts-expect-error a number is neither a word nor a list
  await net.negotiate(32)
  // @ts-expect-error nothing was negotiated, perhaps
  net.features.has('VIRTIO_NET_F_MAC')
  // @ts-expect-error a set does not change
  net.features.bits = 0n
}

/** Addresses are bigint, offsets into a region are numbers. */
export async function memory(): Promise<void> {
  await space.map({ iova: 0x1000n, region })
  await space.map([{ iova: 0x1000n, region, offset: 4096, size: 4096, access: 'ro' }])
  await space.map(guest, {
    signal: AbortSignal.timeout(1),
    onProgress: ({ entries, totalEntries }) => take<number>(entries + totalEntries),
  })
  await space.unmap({ iova: 0n, size: 4096n })
  same<ReturnType<typeof space.mapSync>, void>(true)
  same<ReturnType<typeof space.mapRegion>, Promise<bigint>>(true)
  same<Mapping['iova'], bigint>(true)
  same<Mapping['size'], bigint>(true)
  same<Mapping['offset'], number>(true)
  const found = space.lookup(0n)
  // @ts-expect-error there may be no mapping
  take(found.region)
  // @ts-expect-error an address is a bigint
  await space.map({ iova: 0x1000, region })
  // @ts-expect-error a Buffer is no memory for DMA
  await space.map({ iova: 0n, region: Buffer.alloc(4096) })
  // @ts-expect-error an access that there is not
  await space.map({ iova: 0n, region, access: 'rwx' })
  // @ts-expect-error the size belongs to it
  await space.unmap({ iova: 0n })
}

/** A verdict on isolation is one of two, and says which. */
export function isolation(): void {
  const verdict = net.groups.isolation(2)
  same<typeof verdict, IsolationVerdict>(true)
  if (verdict.isolated) {
    same<typeof verdict.group, number>(true)
    net.groups.assign(verdict.group, 1)
    net.groups.assign(verdict.group, net.addressSpace(1))
    // @ts-expect-error there is a reason only for a no
    take(verdict.reason)
  } else take<string>(verdict.reason)
  same<IsolationVerdict, ReturnType<typeof net.groups.isolation>>(true)
  take<boolean>(net.groups.isolation(net.controlQueueIndex).isolated)
  // @ts-expect-error asid 0, as a string
  net.groups.assign(1, '0')
  // @ts-expect-error the group may not be known
  net.groups.assign(net.groups.of(0), 1)
}

/** Queues, rings and drivers belong to the kind of device they are for. */
export async function queues(): Promise<void> {
  const control = await NetControlQueue.start(net, net.addressSpace(1), { timeout: 500 })
  await control.setMacAddress('02:00:00:00:00:01', { signal: AbortSignal.timeout(10) })
  await control.send('VIRTIO_NET_CTRL_VLAN_ADD', 7)
  await NetDriver.start(net)
  vring.setUp({ size: 256, addresses: { descriptor: 0n, driver: 0x1000n, device: 0x2000n }, kick: 7, call: null })
  same<ReturnType<typeof vring.state>, { readonly available: number; readonly used: number }>(true)
  // @ts-expect-error a network driver on a block device
  await NetDriver.start(block)
  // @ts-expect-error a command that there is not
  await control.send('VIRTIO_NET_CTRL_VLAN_ADDS', 7)
  // @ts-expect-error another command's payload
  await control.send('VIRTIO_NET_CTRL_VLAN_ADD', '02:00:00:00:00:01')
  // @ts-expect-error areas are IOVAs
  vring.setUp({ size: 256, addresses: { descriptor: 0, driver: 0x1000, device: 0x2000 } })
}

/** Events have names, and an iteration ends with its signal. */
export async function events(): Promise<void> {
  net.events.on('config', () => undefined)
  net.events.once('needsReset', () => undefined)
  for await (const change of net.configChanges({ signal: AbortSignal.timeout(1) })) take<void>(change)
  await net.start({ signal: AbortSignal.timeout(1) })
  // @ts-expect-error an event that there is not
  net.events.on('configuration', () => undefined)
  // @ts-expect-error a signal, and not its controller
  await net.start({ signal: new AbortController() })
}

/** Everything that stands for the operating system is a Backend. */
export function backends(): void {
  const simulator = new Simulator({ profile: 'linux-6.12', scheduler: 'manual' })
  for (const backend of [simulator, new KernelBackend(), new RecordingBackend(simulator), new FaultyBackend(simulator)])
    take<Backend>(backend)
  simulator.add(networkDevice({ mac: '02:11:22:33:44:55' }))
  simulator.add(blockDevice({ path: '/dev/vhost-vdpa-1' }))
  simulator.add(customDevice({ deviceId: 25, queues: 2 }))
  simulator.faults.fail({ request: 'VHOST_VDPA_SET_GROUP_ASID', with: 'EBUSY', nth: 1 })
  // @ts-expect-error a profile that there is not
  new Simulator({ profile: 'linux-1.0' })
  // @ts-expect-error a request that there is not
  simulator.faults.fail({ request: 'VHOST_VDPA_SET_GROUP', with: 'EBUSY' })
  // @ts-expect-error an errno that there is not
  simulator.faults.fail({ with: 'EWHATEVER' })
  // @ts-expect-error a device is added, not its options
  simulator.add({ mac: '02:11:22:33:44:55' })
}

/** What goes on after a move is of the kind that was given, where something was. */
export async function moving(driver: NetDriver, control: NetControlQueue, wish: MoveDeviceOptions): Promise<void> {
  const moved = await moveDevice(net, net, { driver, rounds: 2 })
  same<typeof moved.driver, NetDriver>(true)
  same<typeof moved.control, NetControlQueue | undefined>(true)
  const both = await moveDevice(net, net, { driver, control })
  take<NetControlQueue>(both.control)
  const unknown = await moveDevice(net, net, wish)
  take<MoveResult>(unknown)
  // @ts-expect-error nothing may have been given
  take<NetDriver | BlockDriver>(unknown.driver)
  take<MoveResult>(moved)
  // @ts-expect-error an option that there is not
  await moveDevice(net, net, { drivers: driver })
}

/** The table of requests has names that are checked, and an error is known by its brand. */
export function vocabulary(): void {
  same<(typeof requests)['VHOST_VDPA_SET_GROUP_ASID']['name'], 'VHOST_VDPA_SET_GROUP_ASID'>(true)
  take<RequestName>('VHOST_VDPA_GET_AS_NUM')
  if (isVdpaError(unknownValue)) same<typeof unknownValue, VdpaError>(true)
  same<VdpaError['code'], string>(true)
  same<VdpaError['errno'], number | undefined>(true)
  take<VdpaDevice>(some)
  // @ts-expect-error a request that there is not
  take<RequestName>('VHOST_VDPA_GET_AS')
  // @ts-expect-error the table does not change
  requests.VHOST_SET_OWNER.number = 0
}
