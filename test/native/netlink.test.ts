// Netlink sockets of the kernel backend: one question to the controller of generic netlink, which is in every kernel.

import { expect, it } from '@jest/globals'
import { describeNative, failureOf, leftOpen, openDescriptors, untilNoneIsOpen } from './support'

const NETLINK_GENERIC = 16

/** CTRL_CMD_GETFAMILY for a family's name. Netlink is in the order of the host's bytes. */
function askForFamily(name: string): Uint8Array {
  const length = 4 + name.length + 1
  const message = Buffer.alloc(20 + Math.ceil(length / 4) * 4)
  message.writeUInt32LE(message.length, 0)
  message.writeUInt16LE(0x10, 4) // GENL_ID_CTRL
  message.writeUInt16LE(1, 6) // NLM_F_REQUEST
  message.writeUInt32LE(77, 8)
  message.writeUInt8(3, 16) // CTRL_CMD_GETFAMILY
  message.writeUInt8(1, 17)
  message.writeUInt16LE(length, 20)
  message.writeUInt16LE(2, 22) // CTRL_ATTR_FAMILY_NAME
  message.write(name, 24, 'latin1')
  return message
}

describeNative('a netlink socket', (backend) => {
  it('asks and is answered, by turns and through a listener', async () => {
    await using socket = backend().netlink(NETLINK_GENERIC)
    expect(socket.receive()).toBeUndefined()
    const answered = new Promise<void>((resolve) => {
      socket.onReadable(resolve).ref()
    })
    socket.send(askForFamily('nlctrl'))
    await answered
    const answer = socket.receive() ?? new Uint8Array(0)
    const view = new DataView(answer.buffer)
    expect(view.getUint32(0, true)).toBe(answer.length)
    expect(view.getUint16(4, true)).toBe(0x10)
    expect(view.getUint32(8, true)).toBe(77)
    expect(Buffer.from(answer).includes('nlctrl\0')).toBe(true)
    expect(socket.receive()).toBeUndefined()
  })

  it('asks off the thread, and is closed while it asks', async () => {
    const before = openDescriptors()
    const socket = backend().netlink(NETLINK_GENERIC)
    const sent = socket.sendAsync(askForFamily('nlctrl'))
    expect(socket.receive()).toBeUndefined()
    await sent
    const answer = socket.receive() ?? new Uint8Array(0)
    expect(Buffer.from(answer).includes('nlctrl\0')).toBe(true)
    await expect(socket.sendAsync('x' as unknown as Uint8Array)).rejects.toThrow('message must be a Uint8Array')
    const last = socket.sendAsync(askForFamily('nlctrl'))
    await socket.close()
    await last
    expect(await failureOf(() => socket.sendAsync(askForFamily('nlctrl')))).toMatchObject({ code: 'ERR_VDPA_CLOSED' })
    await untilNoneIsOpen(before)
  })

  it('joins groups', async () => {
    await using socket = backend().netlink(NETLINK_GENERIC)
    socket.addMembership(16) // The controller's own.
    expect(await failureOf(() => socket.addMembership(0x7fff_ffff))).toMatchObject({
      code: 'EINVAL',
      syscall: 'setsockopt',
    })
    expect(() => socket.addMembership(0)).toThrow(RangeError)
  })

  it('refuses protocols that are not there, and messages that are none', async () => {
    expect(await failureOf(() => backend().netlink(31))).toMatchObject({ code: 'EPROTONOSUPPORT', syscall: 'socket' })
    expect(() => backend().netlink(32)).toThrow(RangeError)
    await using socket = backend().netlink(NETLINK_GENERIC)
    expect(() => socket.send('x' as unknown as Uint8Array)).toThrow(TypeError)
  })

  it('throws after close', async () => {
    const before = openDescriptors()
    const socket = backend().netlink(NETLINK_GENERIC)
    await socket.close()
    await socket.close()
    expect(socket.isClosed).toBe(true)
    expect(leftOpen(before)).toEqual([])
    const verbs = [
      () => socket.fd,
      () => socket.send(askForFamily('nlctrl')),
      () => socket.receive(),
      () => socket.onReadable(() => {}),
      () => socket.addMembership(16),
    ]
    for (const verb of verbs)
      expect((await failureOf(verb)).message).toBe('ERR_VDPA_CLOSED: netlink: the socket is closed')
  })
})
