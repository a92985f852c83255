// Two guests of QEMU, emulated, and a wire between their network devices at vhost-user sockets: node guest-net.mjs ours|testpmd. Prints, as JSON, the pings a second that
// one of them made, each after the answer to the one before, and the bytes a second of a TCP stream. The other back end is DPDK's vhost in testpmd, which polls.
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const [, , whose] = process.argv
const runner = fileURLToPath(new URL('../../guests/run.mjs', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'vhost-vdpa-bench-'))
const sockets = ['first', 'second'].map((name) => join(folder, name))
const macs = ['02:00:00:00:00:01', '02:00:00:00:00:02']
const PINGS = 2000
const BYTES = 96 << 20

const children = []
function start(command, words, env = {}, errors = 'inherit') {
  const options = { stdio: ['pipe', 'pipe', errors], env: { ...process.env, ...env } }
  const child = spawn(command, words, options)
  children.push(child)
  return child
}

const backEnds = {
  ours() {
    const index = createRequire(import.meta.url).resolve('../../../dist/serve.js')
    const source = `const serve = require(process.argv[1])
const devices = ${JSON.stringify(macs)}.map((mac) => serve.networkDevice({ mac }))
serve.pair(...devices)
devices.forEach((device, at) => serve.serveVhostUser(device, { socket: process.argv[2 + at] }))`
    return start(process.execPath, ['-e', source, index, ...sockets])
  },
  testpmd() {
    const environment = ['-l', '0,1', '--no-pci', '--no-telemetry', '--no-huge', '-m', '256', '--iova-mode=va']
    const ports = sockets.map((path, at) => `--vdev=net_vhost${at},iface=${path}`)
    const forwarding = ['--forward-mode=io', '--nb-cores=1', '--total-num-mbufs=4096', '--auto-start']
    // It reads commands as long as its input is open.
    const words = [...environment, `--file-prefix=bench${process.pid}`, ...ports, '--', ...forwarding, '-i']
    // It says each message of its front ends.
    return start('dpdk-testpmd', words, { XDG_RUNTIME_DIR: folder }, 'ignore')
  },
}

const now = (what) => `say ${what} $(cut -d" " -f1 /proc/uptime)`
const scripts = [
  `ip link set eth0 up
ip addr add 10.0.0.1/24 dev eth0
nc -l -p 5000 > /dev/null
sleep 600`,
  `ip link set eth0 up
ip addr add 10.0.0.2/24 dev eth0
n=0; until ping -c 1 -W 1 10.0.0.1 > /dev/null || [ $n = 90 ]; do n=$((n+1)); done
ping -A -q -c ${PINGS} 10.0.0.1 > /dev/null
${now('pings')}
say lost $(ping -A -q -c ${PINGS} 10.0.0.1 | grep -o "[0-9]*% packet loss")
${now('pinged')}
dd if=/dev/zero bs=64k count=${BYTES / 0x10000} 2> /dev/null | nc 10.0.0.1 5000
${now('sent')}`,
]

/** Resolves with what a guest printed, at its end. */
function guest(script, at) {
  const child = start(process.execPath, [
    runner,
    ...['--machine', 'qemu', '--script', script],
    `${sockets[at]}:1,mac=${macs[at]}`,
  ])
  let output = ''
  child.stdout.on('data', (chunk) => (output += chunk))
  return new Promise((resolve) => child.once('close', () => resolve(output)))
}

function numbersOf(output) {
  const at = (what) => Number(new RegExp(`^guest: ${what} ([\\d.]+)`, 'm').exec(output)?.[1])
  if (!/^guest: lost 0%/m.test(output) || !(at('sent') > 0))
    throw new Error(`the guests did not hear each other:\n${output}`)
  return { pings: PINGS / (at('pinged') - at('pings')), bytes: BYTES / (at('sent') - at('pinged')) }
}

backEnds[whose]().stdout.resume()
try {
  while (!sockets.every((path) => existsSync(path))) await new Promise((resolve) => setTimeout(resolve, 20))
  guest(scripts[0], 0)
  console.log(JSON.stringify(numbersOf(await guest(scripts[1], 1))))
} finally {
  for (const child of children) child.kill('SIGTERM')
  rmSync(folder, { recursive: true, force: true })
}
