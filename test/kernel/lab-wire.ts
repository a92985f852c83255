// The far end of a PCI device's wire in the lab: the peer's card of Linux through a socket, the capture file, and QEMU's monitor for the link.

import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { constants, readFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { networkInterfaces } from 'node:os'
import type { Wire } from '../conformance/net-datapath.js'
import { labVariable } from './support.js'

const port = 9999

/** What devices.json says of a device with a peer. */
export interface LabDevice {
  /** Its name in QEMU: `vp0`. */
  readonly name: string
  /** The variable with the peer's interface. */
  readonly peer: string
  /** The variable with the capture file, where there is one. */
  readonly capture?: string
}

export async function labWire(device: LabDevice): Promise<Wire> {
  const peer = labVariable(device.peer)
  const ip = networkInterfaces()[peer]?.find(({ family }) => family === 'IPv4')?.address
  if (ip === undefined) throw new Error(`the peer ${peer} has no IPv4 address`)
  const socket = createSocket({ type: 'udp4', recvBufferSize: 4 << 20 })
  const arrived: Uint8Array[] = []
  socket.on('message', (message) => arrived.push(new Uint8Array(message)))
  socket.bind(port, ip)
  await once(socket, 'listening')
  socket.setBroadcast(true)
  const { capture } = device
  return {
    ip,
    port,
    arrived,
    send: (payload) => socket.send(payload, port, ip.replace(/\d+$/, '255')),
    ...(capture === undefined ? {} : { captured: () => readCapture(labVariable(capture)) }),
    setLink: async (isUp) => void (await qmp({ execute: 'set_link', arguments: { name: device.name, up: isUp } })),
    close: () => socket.close(),
  }
}

/** The frames of a pcap file, those that are whole by now. */
function readCapture(path: string): Uint8Array[] {
  const bytes = readFileSync(path)
  const frames: Uint8Array[] = []
  for (let at = 24; at + 16 <= bytes.length;) {
    const length = bytes.readUInt32LE(at + 8)
    if (at + 16 + length > bytes.length) break
    frames.push(new Uint8Array(bytes.subarray(at + 16, at + 16 + length)))
    at += 16 + length
  }
  return frames
}

let commands = 0

/** What the monitor says in a line; nothing where its beginning was read by somebody before, with the answer to another command. */
function parsed(line: string): { readonly id?: number; readonly return?: object; readonly error?: object } {
  try {
    return JSON.parse(line) as object
  } catch {
    return {}
  }
}

/** One command of QEMU's monitor and its answer; throws what it answers when that is an error. Events are passed over. */
export async function qmp(command: object): Promise<unknown> {
  const id = process.pid * 1000 + commands++
  const monitor = await open(labVariable('LAB_QMP'), constants.O_RDWR)
  try {
    await monitor.write(`${JSON.stringify({ ...command, id })}\n`)
    const chunk = Buffer.alloc(4096)
    for (let text = ''; ;) {
      const { bytesRead } = await monitor.read(chunk, 0, chunk.length)
      if (bytesRead === 0) throw new Error(`the monitor said no more than '${text}'`)
      text += chunk.toString('utf8', 0, bytesRead)
      for (const line of text.split('\n').slice(0, -1)) {
        const answer = parsed(line)
        if (answer.id !== id) continue
        if (answer.error !== undefined) throw new Error(`the monitor refused: ${line}`)
        if (answer.return !== undefined) return answer.return
      }
    }
  } finally {
    await monitor.close()
  }
}

/** What the monitor says of a device's filters. */
export interface RxFilter {
  readonly name: string
  readonly promiscuous: boolean
  readonly 'broadcast-allowed': boolean
  readonly multicast: string
  readonly unicast: string
  readonly 'main-mac': string
  readonly 'unicast-table': readonly string[]
  readonly 'multicast-table': readonly string[]
  readonly 'unicast-overflow': boolean
  readonly 'multicast-overflow': boolean
  readonly 'vlan-table': readonly number[]
}

/** The filters of a device, by its name in QEMU, as they are now. */
export async function rxFilter(device: string): Promise<RxFilter> {
  const all = (await qmp({ execute: 'query-rx-filter' })) as RxFilter[]
  const found = all.find(({ name }) => name === device)
  if (found === undefined) throw new Error(`the monitor knows no filters of ${device}`)
  return found
}
