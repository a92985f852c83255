// A guest of User Mode Linux and its disk at a vhost-user socket: node guest.mjs ours|storage-daemon. Prints how many 4 KiB reads it made a second, one after
// another. The other server is qemu-storage-daemon (Debian's qemu-system-common).
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const [, , whose] = process.argv
const guests = fileURLToPath(new URL('../../guests/run.mjs', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'vhost-vdpa-bench-'))
const socket = join(folder, 'socket')
const READS = 20_000
const BYTES = 64 << 20

/** Boots a guest that runs a script; resolves with what it printed. */
function guest(script) {
  const child = spawn(process.execPath, [guests, '--script', script, `${socket}:2`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let output = ''
  child.stdout.on('data', (chunk) => (output += chunk))
  return new Promise((resolve) => child.once('close', () => resolve(output)))
}

/** A server in a process of its own, as it is for a user; returns who ends it. */
function server(command, words) {
  const child = spawn(command, words, { stdio: ['pipe', 'ignore', 'inherit'] })
  return () => child.kill('SIGKILL')
}

const servers = {
  ours() {
    const index = createRequire(import.meta.url).resolve('../../../dist/serve.js')
    const options = `{ capacity: ${BYTES / 512}, content: new Uint8Array(${BYTES}) }`
    const source = `const serve = require(process.argv[1]); serve.serveVhostUser(serve.blockDevice(${options}), { socket: process.argv[2] })`
    return server(process.execPath, ['-e', source, index, socket])
  },
  'storage-daemon'() {
    const file = join(folder, 'disk')
    writeFileSync(file, '')
    truncateSync(file, BYTES)
    return server('qemu-storage-daemon', [
      ...['--blockdev', `driver=file,node-name=disk,filename=${file}`],
      ...['--export', `vhost-user-blk,id=disk,node-name=disk,addr.type=unix,addr.path=${socket}`],
    ])
  },
}

/** Seconds between two lines of the guest's own clock. */
function secondsOf(output) {
  const [from, to] = [...output.matchAll(/^guest: at ([\d.]+)/gm)].map(([, at]) => Number(at))
  if (to === undefined) throw new Error(`the guest did not say when:\n${output}`)
  return to - from
}

const end = servers[whose]()
try {
  while (!existsSync(socket)) await new Promise((resolve) => setTimeout(resolve, 20))
  const perPass = BYTES / 4096
  const passes = Math.ceil(READS / perPass)
  const reads = `dd if=/dev/vda of=/dev/null bs=4k iflag=direct count=${perPass} 2> /dev/null`
  const now = 'say at $(cut -d" " -f1 /proc/uptime)'
  // The first pass is not counted: our code is compiled meanwhile.
  const output = await guest([reads, now, ...Array(passes).fill(reads), now].join('\n'))
  console.log(((passes * perPass) / secondsOf(output)).toFixed(1))
} finally {
  end()
  rmSync(folder, { recursive: true, force: true })
}
