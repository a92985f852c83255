// What the command does with terminals: small ones, ones that change their size, ones that cannot be drawn on, and words of others that a terminal would obey.

import { EventEmitter } from 'node:events'
import { describe, expect, it, test } from '@jest/globals'
import { simulatedHost, type Host } from '../../lib/cli/host'
import { run } from '../../lib/cli/program'
import { fit, printable, printableLines, widthOf } from '../../lib/cli/terminal-text'
import { VdpaFamily } from '../../lib/management/vdpa-family'
import { openDevice } from '../../lib/open'

const CLEAR = '\u001b[H\u001b[J'
const STYLE = new RegExp(`${'\u001b'}\\[\\d+m`, 'g')

/** A terminal of some size. */
class Terminal extends EventEmitter {
  readonly isTTY = true
  written = ''
  /** Called with all that was written so far. */
  onWrite: (text: string) => void = () => undefined

  constructor(
    public columns: number,
    public rows: number,
  ) {
    super()
  }

  write(text: string): void {
    this.written += text
    this.onWrite(this.written)
  }

  resize(columns: number, rows: number): void {
    Object.assign(this, { columns, rows })
    this.emit('resize')
  }

  /** What was drawn, from one clearing to the next, without colours: lines. */
  get pictures(): string[][] {
    const pictures = this.written.split(CLEAR).slice(1)
    return pictures.map((picture) => picture.replace(STYLE, '').replace(/\n$/, '').split('\n'))
  }
}

interface Watched {
  readonly terminal: Terminal
  readonly host?: Host
  readonly environment?: NodeJS.ProcessEnv
  readonly signal?: AbortSignal
}

function watch(words: string, { terminal, host, environment = {}, signal }: Watched): Promise<number> {
  return run(words.split(' '), {
    stdout: terminal,
    stderr: { write: () => true },
    environment,
    ...(host !== undefined && { host }),
    ...(signal !== undefined && { interrupt: () => signal }),
  })
}

/** A host whose network device is open and counts. */
async function countingHost() {
  const host = await simulatedHost()
  const device = await openDevice('/dev/vhost-vdpa-0', { backend: host.backend() })
  await device.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
  return { host, device }
}

/** Begins some text; the rest of it does not. */
const begins = (lines: readonly string[] | undefined, text: string) => lines?.some((line) => line.startsWith(text))

describe('monitor', () => {
  it.each([
    [40, 10],
    [20, 5],
    [200, 12],
    [1, 1],
  ])('fits on a terminal of %d columns and %d lines', async (columns, rows) => {
    const { host, device } = await countingHost()
    await using family = VdpaFamily.open(host.backend())
    for (let index = 0; index < 30; index++)
      await family.add({ name: `another${index}`, managementDevice: 'vdpasim_net' })
    const terminal = new Terminal(columns, rows)
    expect(await watch('monitor --count 2 --interval 1', { terminal, host })).toBe(0)
    expect(terminal.pictures).toHaveLength(2)
    for (const picture of terminal.pictures) {
      expect(picture.length).toBeLessThanOrEqual(Math.max(1, rows - 1))
      for (const line of picture) expect(line.length).toBeLessThanOrEqual(columns)
      if (rows > 5) expect(picture.at(-1)).toMatch(/^… and \d+ lines more/)
    }
    await device.close()
  })

  it('leaves out the node and the holder where the counters would have no room', async () => {
    const { host, device } = await countingHost()
    const shown = async (columns: number) => {
      const terminal = new Terminal(columns, 50)
      await watch('monitor --count 1', { terminal, host })
      return terminal.pictures[0] ?? []
    }
    expect((await shown(200))[1]).toMatch(/^DEVICE +NODE +HELD BY +QUEUE: COUNTER +VALUE +RATE$/)
    const small = await shown(40)
    expect(small[1]).toMatch(/^DEVICE +QUEUE: COUNTER +VALUE +RATE$/)
    expect(begins(small, 'net0    0: rx packets')).toBe(true)
    await device.close()
  })

  it('is drawn anew at once when the terminal has another size, and listens no more afterwards', async () => {
    const { host, device } = await countingHost()
    const terminal = new Terminal(200, 50)
    const ending = new AbortController()
    terminal.onWrite = () => {
      if (terminal.pictures.length === 1) setImmediate(() => terminal.resize(40, 10))
      else ending.abort()
    }
    // The next look is a day away.
    expect(await watch('monitor --interval 86400000', { terminal, host, signal: ending.signal })).toBe(0)
    const [before, after, ...more] = terminal.pictures
    expect([before?.length, after?.length, more]).toEqual([expect.any(Number), 9, []])
    expect(before?.length).toBeGreaterThan(9)
    expect(terminal.listenerCount('resize')).toBe(0)
    await device.close()
  })

  it('is one table after the other on a terminal that cannot be drawn on', async () => {
    const terminal = new Terminal(40, 10)
    const environment = { TERM: 'dumb' }
    expect(await watch('monitor --count 2 --interval 1 --simulator', { terminal, environment })).toBe(0)
    expect(terminal.written).not.toContain('\u001b')
    expect(terminal.written.match(/^DEVICE/gm)).toHaveLength(2)
  })

  it.each(['--json', '--web'])('is no text for scrapers and %s', async (other) => {
    let err = ''
    const stderr = { write: (text: string) => (err += text) }
    const words = ['monitor', '--openmetrics', other, '--simulator']
    let out = ''
    const stdout = { write: (text: string) => (out += text) }
    expect(await run(words, { stdout, stderr, environment: {} })).toBe(2)
    expect(out + err).toContain('--openmetrics is text for a scraper')
  })
})

describe('a bar', () => {
  it.each([
    [30, 29],
    [0, 79],
  ])('of a terminal with %d columns is at most %d wide', async (columns, most) => {
    const stderr = new Terminal(columns, 10)
    const words = ['bench', 'net0', '--time', '1', '--simulator']
    expect(await run(words, { stdout: { write: () => true }, stderr, environment: {} })).toBe(0)
    const bars = stderr.written.split('\r\u001b[K').filter((bar) => bar !== '')
    expect(bars).toHaveLength(2)
    for (const bar of bars) expect(bar.length).toBeLessThanOrEqual(most)
  })

  it('is not there where nothing can be drawn over', async () => {
    const stderr = new Terminal(80, 10)
    const words = ['bench', 'net0', '--time', '1', '--simulator']
    expect(await run(words, { stdout: { write: () => true }, stderr, environment: { TERM: 'dumb' } })).toBe(0)
    expect(stderr.written).toBe('')
  })
})

describe('words of others', () => {
  const evil = 'a\u001b]0;title\u0007\u009b2J\u202eb\nDEVICE'

  it.each(['list', 'show net0', 'status net0', 'doctor', 'remove net0', 'monitor --count 1'])(
    '%s shows what a process calls itself, and the terminal obeys none of it',
    async (words) => {
      const { host, device } = await countingHost()
      const read = async (path: string) => (/^proc\/\d+\/comm$/.test(path) ? evil : host.files.read(path))
      const terminal = new Terminal(400, 100)
      let err = ''
      await run(words.split(' '), {
        stdout: terminal,
        stderr: { write: (text) => (err += text) },
        environment: {},
        host: { ...host, files: { ...host.files, read } },
      })
      const said = (terminal.written + err).replace(CLEAR, '').replace(STYLE, '')
      expect(said).toContain('a\\x1b]0;title\\x07\\x9b2J\\u202eb\\x0aDEVICE (')
      expect(said).not.toMatch(/[^\P{Cc}\n]|\p{Bidi_Control}/u)
      await device.close()
    },
  )

  it('are made harmless where they are no command, too', async () => {
    let err = ''
    const stderr = { write: (text: string) => (err += text) }
    expect(await run(['show', 'x\u001b[2J', '--simulator'], { stdout: { write: () => true }, stderr })).toBe(1)
    expect(await run(['\u001b[2J'], { stdout: { write: () => true }, stderr })).toBe(2)
    expect(err).not.toContain('\u001b')
  })
})

test('text is as wide as a terminal shows it, and is cut without losing the end of a colour', () => {
  expect(['net0', 'é€', 'e\u0301', '💥', '日本', '\u001b[1mbold\u001b[22m', ''].map(widthOf)).toEqual([
    4, 2, 1, 2, 4, 4, 0,
  ])
  expect(fit('\u001b[1mbold\u001b[22m', 2)).toBe('\u001b[1mbo\u001b[22m')
  expect(fit('日本', 3)).toBe('日')
  expect(fit('💥ab', 1)).toBe('')
  expect(printable('\u001b[31mred\u001b[39m \u001b[8mhidden\tx')).toBe('\u001b[31mred\u001b[39m \\x1b[8mhidden\\x09x')
  expect(printableLines('one\ntwo\r')).toBe('one\ntwo\\x0d')
})
