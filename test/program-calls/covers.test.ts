// A new place where the package calls the program is covered by a row, or it is said here why it needs none.

import { beforeAll, expect, test } from '@jest/globals'
import { places } from './places.js'
import { publicFunctions } from './public-functions.js'

/** Public functions that are not the program's to give, and those of the program that the same code calls as a row's. */
const elsewhere: Readonly<Record<string, string>> = {
  'ApplyOptions.onJournal': 'ends the whole before anything is done: test/plan',
  'ApplyOptions.onStep': 'ends the whole, which is undone: test/plan',
  'BlockQueue.write(done)': 'as read()',
  'BlockStore.buffer': 'its failure is a request answered IOERR: test/models/stored-block.test.ts',
  'BlockStore.readNow': 'its failure is a request answered IOERR: test/models/stored-block.test.ts',
  'BlockQueue.flush(done)': 'as read()',
  'BridgeVhostUserOptions.onAudit': 'as ShadowOptions.onAudit: the shadow control queue calls it',
  'BridgeVhostUserOptions.onRefusal': 'as ServeVhostUserOptions.onRefusal: the same server calls it',
  'BridgeVhostUserOptions.policy': 'as ShadowOptions.policy: the shadow control queue calls it',
  'ChangingMemoryTable.onChange(listener)': 'the listener is ours; the table is a row',
  'ConnectVfioMailboxOptions.ring': 'called once a message is in the memory: test/vfio-channel/mailbox.test.ts',
  'ControlPort.onCall(listener)': 'the listener is ours; the port is a row',
  'ControlPort.onClose(listener)': 'the listener is ours; the port is a row',
  'DemandIotlb.onReadable(listener)':
    'the listener of a miss server, or of a test: the scheduler calls it, as an eventfd’s',
  'DeviceHost.schedule(work)': 'the work is of a device, which is a row',
  'ByteStream.onReady(listener)': 'the kernel alone calls it, on a turn of its own: test/native',
  'DeviceOps.setConfigCallback(callback)': 'the callback is ours; the operations are a row',
  'DeviceOps.setQueueCallback(callback)': 'the callback is ours; the operations are a row',
  'DeviceOps.whenQuiet':
    'hosts of drivers in other processes ask: test/vduse/hosted-device.test.ts, test/vhost-user/program.test.ts',
  'FileBlockOptions.onFailure': 'as FileStorageOptions.onFailure: the same store calls it',
  'FileStorageOptions.onFailure':
    'called in a turn of its own, when the request was booked: test/storage/file-storage.test.ts',
  'GuestPieces.onChange': 'as ChangingMemoryTable: GuestMemory is a row',
  'GuestPieces.onChange(listener)': 'the listener is ours; GuestMemory is a row',
  'Handle.onReadable(listener)': 'the kernel alone calls it, on a turn of its own: test/native',
  'MappingSink.has': 'what it throws is the failure of the change: test/iommu/lost-mappings.test.ts',
  'MissPort.onReadable(listener)': 'the listener is ours; what the port is read for calls the program, which is a row',
  'ParentOperations.setEventfd(interrupt)':
    'the interrupt is ours; what operations throw: test/models/parent-device.test.ts',
  'ServeVduseOptions.onRefusal': 'needs a kernel, which is pretended: test/vduse/program.test.ts',
  'ServeVfioChannelOptions.onRefusal': 'needs the sockets of a kernel: test/vfio-channel/socket.test.ts',
  'ServeVhostUserOptions.onRefusal': 'needs the sockets of a kernel: test/vhost-user/program.test.ts',
  'SocketListener.onReadable(listener)': 'the kernel alone calls it, on a turn of its own: test/native',
  'StreamSocket.onReadable(listener)': 'the kernel alone calls it, on a turn of its own: test/native',
  'VduseOptions.onRefusal': 'needs a kernel, which is pretended: test/vduse/program.test.ts',
  'openFileStorage(memory).allocate':
    'its failure is that of the opening, which is undone: test/storage/open-file.test.ts',
  'serveVhostUser(model)': 'needs the sockets of a kernel: test/vhost-user/program.test.ts',
}
/** Objects whose every method is called as one that need not be there: ours, or a row, or what is thrown is what the request comes to. */
const whole: Readonly<Record<string, string>> = {
  Backend: 'what a call of it throws is the failure of a verb: test/sweep',
  Handle: 'what a call of it throws is the failure of a verb: test/sweep',
  NetlinkSocket: 'what a call of it throws is the failure of a verb: test/sweep',
  BreakdownHost: 'a device, which is ours',
  ControlHost: 'a device, which is ours',
  ShadowHost: 'a device, which is ours',
  DeviceHost: 'the host of a device is ours; the device is a row',
  TakenRanges: 'an address space, which is ours',
  NetAnswer: 'the table of commands is ours',
  ParentOperations: 'what operations throw: test/models/parent-device.test.ts',
}
const isOfWhole = (name: string) => !name.includes('(') && (name.split('.')[0] as string) in whole
/** What a simulated device has from DeviceOps and ModelDevice, which call back as those do. */
const ofModels = /^(ModelDevice|NetworkDevice|BlockDevice|StoredBlockDevice|FileBlockDevice|IommuDevice)\./

let names: readonly string[] = []
beforeAll(() => {
  names = publicFunctions()
})

test('every function that the public interface takes has a row', () => {
  const covered = new Set(places.flatMap(({ covers }) => covers))
  // A row of an object has all of its methods.
  const isCovered = (name: string) =>
    covered.has(name) || (!name.includes('(') && covered.has(name.split('.')[0] as string))
  const missing = names.filter(
    (name) => !isCovered(name) && !(name in elsewhere) && !isOfWhole(name) && !ofModels.test(name),
  )
  expect(missing).toEqual([])
})

test('what is covered elsewhere is still there', () => {
  expect(Object.keys(elsewhere).filter((name) => !names.includes(name))).toEqual([])
  expect(Object.keys(whole).filter((owner) => !names.some((name) => name.startsWith(`${owner}.`)))).toEqual([])
})
