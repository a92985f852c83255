import { beforeAll, describe, expect, test } from '@jest/globals'
import { ensureBuilt, runProgram } from './support.js'

const quickstart = 'scripts/quickstart.mjs'
const path = '/dev/vhost-vdpa-0'

/** A kernel whose device is on a wire, with nobody at the other end, or with `peer`. */
const wired = `
  const system = new simulator.Simulator()
  const device = simulator.networkDevice({ path: '${path}', mac: '00:11:22:33:44:55' })
  const other = simulator.networkDevice({ path: '/dev/vhost-vdpa-1', mac: '00:11:22:33:44:66' })
  system.add(device)
  system.add(other)
  simulator.pair(device, other)
  replaced.KernelBackend = function () { return system }
`
const neighbour = `
  async function answer() {
    const peer = await lib.openDevice('/dev/vhost-vdpa-1', { backend: system, expect: 'net' })
    await peer.negotiate([])
    const driver = await lib.NetDriver.start(peer)
    await peer.start()
    const asked = await driver.nextFrame()
    const frame = new Uint8Array(60)
    frame.set(asked.subarray(6, 12), 0)
    frame.set([0, 0x11, 0x22, 0x33, 0x44, 0x66, 0x08, 0x06], 6)
    driver.send(frame)
  }
  answer().catch((failure) => { console.error(failure); process.exit(9) })
`

beforeAll(ensureBuilt)

describe('npm run quickstart', () => {
  test('does the main job on the simulator', () => {
    const { code, stdout, stderr } = runProgram(quickstart)
    expect(stderr).toBe('')
    expect(code).toBe(0)
    expect(stdout).toContain('isolated  yes: the control queue is alone in group 1')
    expect(stdout).toContain('mac       00:11:22:33:44:55 → 02:00:00:00:00:01')
    expect(stdout).toContain('the same bytes, "hello, vdpa"')
    expect(stdout).toMatch(/closed {4}nothing is mapped, open or allocated any more\n$/)
  })

  test('gives its advice when a network gives no frame back', () => {
    const { code, stdout, stderr } = runProgram(quickstart, [path], wired)
    expect(stderr).toBe('')
    expect(code).toBe(0)
    expect(stdout).toContain('none came back within 5 s: this device leads to a network')
    expect(stdout).toContain('closed')
  })

  test('says which neighbour answered', () => {
    const { code, stdout, stderr } = runProgram(quickstart, [path, '192.0.2.1'], wired + neighbour)
    expect(stderr).toBe('')
    expect(code).toBe(0)
    expect(stdout).toContain('who has 192.0.2.1?), 60 came back: 00:11:22:33:44:66 has it')
  })

  test('ends with the reason when the neighbour is silent', () => {
    const { code, stdout, stderr } = runProgram(quickstart, [path, '192.0.2.1'], wired)
    expect(code).toBe(1)
    expect(stderr).toContain('ERR_VDPA_CANCELED')
    expect(stdout).not.toContain('closed')
  })

  test('ends with the reason when there is no such device', () => {
    const { code, stderr } = runProgram(quickstart, ['/dev/vhost-vdpa-9'], wired)
    expect(code).toBe(1)
    expect(stderr).toContain('ENOENT: open on /dev/vhost-vdpa-9')
  })

  test('ends with the reason when it is a disk', () => {
    const disk = `const system = new simulator.Simulator(); system.add(simulator.blockDevice({ path: '${path}' }))
      replaced.KernelBackend = function () { return system }`
    const { code, stderr } = runProgram(quickstart, [path], disk)
    expect(code).toBe(1)
    expect(stderr).toContain('ERR_VDPA_WRONG_DEVICE')
  })
})
