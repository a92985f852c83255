// A new place where the package calls the program is covered by a row, or it is said here why it needs none.

import { beforeAll, expect, test } from '@jest/globals'
import { places } from './places.js'
import { publicFunctions } from './public-functions.js'

/** Public functions that are not the program's to give, and those of the program that the same code calls as a row's. */
const elsewhere: Readonly<Record<string, string>> = {
  'ApplyOptions.onJournal': 'ends the whole before anything is done: test/plan',
  'ApplyOptions.onStep': 'ends the whole, which is undone: test/plan',
  'BlockQueue.write(done)': 'as read()',
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
  'DeviceOps.setConfigCallback(callback)': 'the callback is ours; the operations are a row',
  'DeviceOps.setQueueCallback(callback)': 'the callback is ours; the operations are a row',
  'FileBlockOptions.onFailure': 'as FileStorageOptions.onFailure: the same store calls it',
  'FileStorageOptions.onFailure':
    'called in a turn of its own, when the request was booked: test/storage/file-storage.test.ts',
  'GuestPieces.onChange(listener)': 'the listener is ours; GuestMemory is a row',
  'Handle.onReadable(listener)': 'the kernel alone calls it, on a turn of its own: test/native',
  'MissPort.onReadable(listener)': 'the listener is ours; what the port is read for calls the program, which is a row',
  'ParentOperations.setEventfd(interrupt)':
    'the interrupt is ours; what operations throw: test/models/parent-device.test.ts',
  'ServeVduseOptions.onRefusal': 'needs a kernel, which is pretended: test/vduse/program.test.ts',
  'ServeVfioChannelOptions.onRefusal': 'needs the sockets of a kernel: test/vfio-channel/socket.test.ts',
  'ServeVhostUserOptions.onRefusal': 'needs the sockets of a kernel: test/vhost-user/program.test.ts',
  'SocketListener.onReadable(listener)': 'the kernel alone calls it, on a turn of its own: test/native',
  'StreamSocket.onReadable(listener)': 'the kernel alone calls it, on a turn of its own: test/native',
  'VduseOptions.onRefusal': 'needs a kernel, which is pretended: test/vduse/program.test.ts',
  'serveVhostUser(model)': 'needs the sockets of a kernel: test/vhost-user/program.test.ts',
}
/** What a simulated device has from DeviceOps and ModelDevice, which call back as those do. */
const ofModels = /^(ModelDevice|NetworkDevice|BlockDevice|StoredBlockDevice|FileBlockDevice|IommuDevice)\./

let names: readonly string[] = []
beforeAll(() => {
  names = publicFunctions()
})

test('every function that the public interface takes has a row', () => {
  const covered = new Set(places.flatMap(({ covers }) => covers))
  const missing = names.filter((name) => !covered.has(name) && !(name in elsewhere) && !ofModels.test(name))
  expect(missing).toEqual([])
})

test('what is covered elsewhere is still there', () => {
  expect(Object.keys(elsewhere).filter((name) => !names.includes(name))).toEqual([])
})
