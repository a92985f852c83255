import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { tryLoadAddon } from '../../lib/kernel/addon'
import { beforeAll, describe, expect, test } from '@jest/globals'
import ts from 'typescript'
import { ensureBuilt, root, runProgram } from './support.js'

beforeAll(ensureBuilt)

const blocks = Array.from(readFileSync(join(root, 'README.md'), 'utf8').matchAll(/```ts\n([\s\S]*?)```/g), ([, code]) =>
  String(code),
)

/** What a reader has at hand, and the system that the programs find. */
const prelude = `
  const system = new simulator.Simulator()
  system.add(simulator.networkDevice({ path: '/dev/vhost-vdpa-0', mac: '00:11:22:33:44:55' }))
  system.add(simulator.blockDevice({ path: '/dev/vhost-vdpa-1', capacity: 4096 }))
  replaced.openDevice = (target, options) => lib.openDevice(target, { backend: system, ...options })
  const memory = () => system.allocate(65536)
  Object.assign(globalThis, {
    guestMemory: memory(), lowMemory: memory(), highMemory: memory(), plugged: memory(), signal: undefined, bytes: new Uint8Array(4096).fill(7),
    GuestMemory: lib.GuestMemory,
  })
  globalThis.system = system
`

/** Runs README programs one after the other in one module, as pasted; \`after\` looks at what they left. */
function paste(programs: readonly string[], after: string, more = '') {
  const folder = mkdtempSync(join(tmpdir(), 'vhost-vdpa-readme-'))
  try {
    const source = [...programs, after].join('\n')
    const file = join(folder, 'program.mjs')
    const options = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext }
    const simulatorDoor = JSON.stringify(join(root, 'dist/simulator/index.js'))
    const serveDoor = JSON.stringify(join(root, 'dist/serve.js'))
    const script = ts
      .transpileModule(source, { compilerOptions: options })
      .outputText.replaceAll("'vhost-vdpa/simulator'", simulatorDoor)
      .replaceAll('"vhost-vdpa/simulator"', simulatorDoor)
      .replaceAll("'vhost-vdpa/serve'", serveDoor)
      .replaceAll("'/run/disk.sock'", JSON.stringify(join(folder, 'disk.sock')))
    writeFileSync(file, script)
    return runProgram(file, [], prelude + more)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

describe('the programs of the README, as pasted', () => {
  test('there are seven', () => {
    expect(blocks.map((block) => block.split('\n')[0])).toEqual([
      "import { NetControlQueue, openDevice } from 'vhost-vdpa'",
      'const memory = new GuestMemory([{ address: 0x0n, region: lowMemory }, { address: 0x1_0000_0000n, region: highMemory }])',
      "import { networkDevice, Simulator } from 'vhost-vdpa/simulator'",
      "import { inventory, KernelBackend, VdpaFamily } from 'vhost-vdpa'",
      "import { BlockDriver, openDevice } from 'vhost-vdpa'",
      "import { openDevice, ShadowControlQueue } from 'vhost-vdpa'",
      "import { blockDevice, serveVhostUser } from 'vhost-vdpa/serve'",
    ])
  })

  test('a program: the control queue in a space of its own', () => {
    const { code, stdout, stderr } = paste(blocks.slice(0, 1), 'console.log(device.config.net().mac, own.size)')
    expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: '02:00:00:00:00:01 1\n', stderr: '' })
  })

  test("a guest's memory whose pieces come and go", () => {
    const program = [String(blocks[0]).replace('await guest.map([', 'void ([')]
    const follow = String(blocks[1]).replace(
      /^plugged\.close\(\).*$/m,
      'try { plugged.close() } catch (failure) { console.log(failure.code) }',
    )
    const { code, stdout, stderr } = paste([...program, follow], 'console.log(guest.size)')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/131072 of 131072\n[\s\S]*ERR_VDPA_MEMORY_HELD\n3\n$/)
  })

  test('the same program under test', () => {
    const open = "import { openDevice } from 'vhost-vdpa'"
    const after = `await device.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
      try { device.groups.assign(1, 1) } catch (failure) { console.log(failure.code) }
      device.groups.assign(1, 1)
      await device.close()`
    const { code, stdout, stderr } = paste([open, String(blocks[2])], after)
    expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: 'EBUSY\n', stderr: '' })
  })

  test('what devices there are, and one more, of a family that only remembers', () => {
    const family = `replaced.KernelBackend = class {}
      replaced.VdpaFamily = { open: () => ({
        add: async (device) => { globalThis.added = device },
        configuration: async (name) => name + ' ' + globalThis.added.mac,
        [Symbol.asyncDispose]: async () => console.log('closed') }) }
      replaced.inventory = async () => ({ devices: [
        { name: 'net0', node: '/dev/vhost-vdpa-0', managed: { kind: 'net' }, holders: [{ pid: 7, command: 'vmm', descriptors: [3] }] },
        { name: 'other', holders: [] } ] })`
    const { code, stdout, stderr } = paste(blocks.slice(3, 4), '', family)
    const lines = [
      'net0 /dev/vhost-vdpa-0 net vmm (7)',
      'other no node undefined ',
      'net0 02:00:00:00:00:01',
      'closed',
      '',
    ]
    expect({ code, stdout: stdout.split('\n'), stderr }).toEqual({ code: 0, stdout: lines, stderr: '' })
  })

  test('a disk', () => {
    const { code, stdout, stderr } = paste(blocks.slice(4, 5), 'console.log(Buffer.compare(same, bytes))')
    expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: '0\n', stderr: '' })
  })

  test("a guest's control queue: one address is allowed, others are not", () => {
    const guest = `
      const region = system.allocate(16384)
      const at = (offset, length) => new lib.RingMemory(region.buffer, offset, length)
      const sizes = lib.areaSizes('split', 8)
      const ring = lib.createDriverRing({ format: 'split', size: 8,
        areas: { descriptor: at(0, sizes.descriptor), driver: at(4096, sizes.driver), device: at(8192, sizes.device) } })
      const [kick, call] = [system.eventfd(), system.eventfd()]
      const send = async (last) => {
        region.view(12288, 8).set([1, 1, 2, 0, 0, 0, 0, last])
        ring.begin()
        ring.pushAddress(12288n, 8, false)
        ring.pushAddress(13000n, 1, true)
        ring.commit(0)
        if (ring.publish()) kick.signal()
        while (ring.take() < 0) await new Promise((resolve) => setImmediate(resolve))
        return region.view(13000, 1)[0]
      }
      Object.assign(globalThis, { memory: new lib.GuestMemory([{ address: 0n, region }]), features: 1n << 23n, size: 8, kick, call,
        addresses: { descriptor: 0n, driver: 4096n, device: 8192n }, send })`
    const after = 'console.log(await send(2), await send(1), device.config.net().mac, shadow.commands().length)'
    const { code, stdout, stderr } = paste(blocks.slice(5, 6), after, guest)
    const lines = [
      'VIRTIO_NET_CTRL_MAC_ADDR_SET denied 1',
      'VIRTIO_NET_CTRL_MAC_ADDR_SET forwarded 0',
      '1 0 02:00:00:00:00:01 1',
      '',
    ]
    expect({ code, stdout: stdout.split('\n'), stderr }).toEqual({ code: 0, stdout: lines, stderr: '' })
  })

  const { addon, reason } = tryLoadAddon()
  const whole = 'a disk for a virtual machine'
  const withAddon = addon === undefined ? test.skip : test
  withAddon(addon === undefined ? `${whole} (skipped: ${reason})` : whole, () => {
    const { code, stdout, stderr } = paste(blocks.slice(6), 'console.log(server.frontEnds, server.refusals)')
    expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: '0 []\n', stderr: '' })
  })
})
