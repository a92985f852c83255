// The page of a topology: what is in it, that its colours can be read, and what it does in a browser where there is one.

import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from '@jest/globals'
import { pageColours } from '../../lib/topology/html-style.js'
import { topologyHtml } from '../../lib/topology/html.js'
import type { Topology } from '../../lib/topology/topology.js'
import { hasBrowser, whyNoBrowser } from '../browser.js'
import { contrast } from './contrast.js'

const topology: Topology = {
  path: '/dev/vhost-vdpa-0</script><b>',
  kind: 'net',
  queues: [
    { index: 0, role: 'receive', group: 0 },
    { index: 1, role: 'control', group: 1 },
  ],
  groups: [
    { index: 0, asid: 0 },
    { index: 1, asid: 1 },
  ],
  spaces: [
    {
      asid: 0,
      mappings: [
        { first: '0x0', last: '0xfff', access: 'rw' },
        { first: '0x4000000000', last: '0x40001fffff', access: 'ro' },
      ],
    },
    { asid: 1, mappings: [] },
  ],
}

function between(text: string, start: string, end: string): string {
  const from = text.indexOf(start)
  return text.slice(from + start.length, text.indexOf(end, from + start.length))
}

describe('the page', () => {
  const page = topologyHtml(topology)

  test('holds the data whole, and nothing of it is taken for markup', () => {
    const data = between(page, '<script type="application/json" id="data">', '</script>')
    expect(JSON.parse(data)).toEqual({ topology, isLive: false })
    expect(page).not.toContain('<b>')
    expect(page).toContain('<title>/dev/vhost-vdpa-0&lt;/script&gt;&lt;b&gt; (net)</title>')
  })

  test('needs nothing else, and its policy allows its own script alone', () => {
    expect(page.replace('http://www.w3.org/2000/svg', '')).not.toMatch(
      /\b(src|href)=|@import|url\(|https?:\/\/(?!www\.w3\.org)/,
    )
    const script = between(page, '<script>', '</script>')
    const hash = createHash('sha256').update(script).digest('base64')
    expect(page).toContain(`script-src 'sha256-${hash}'`)
    expect(page).toContain("default-src 'none'")
  })

  test('says the same without scripts', () => {
    expect(between(page, '<noscript><pre>', '</pre>')).toContain('0x4000000000 to 0x40001fffff ro')
    expect(page).toContain('<html lang="en">')
  })
})

describe.each(Object.entries(pageColours))('colours in %s surroundings', (_name, colours) => {
  test.each(['text', 'quiet', 'ro', 'wo', 'rw'] as const)('%s can be read on the ground and in a box', (name) => {
    expect(contrast(colours[name], colours.ground)).toBeGreaterThanOrEqual(4.5)
    expect(contrast(colours[name], colours.box)).toBeGreaterThanOrEqual(4.5)
  })

  test.each(['line', 'focus'] as const)('%s can be seen', (name) => {
    expect(contrast(colours[name], colours.ground)).toBeGreaterThanOrEqual(3)
    expect(contrast(colours[name], colours.box)).toBeGreaterThanOrEqual(3)
  })
})

const browserTest = hasBrowser ? test : test.skip

/** The document after its scripts have run, and `actions` after them. */
function inBrowser(actions: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'vhost-vdpa-page-'))
  try {
    // The policy lets no other script run; the test's is a second one.
    const page = topologyHtml(topology).replace(/<meta http-equiv[^>]*>/, '')
    const file = join(folder, 'page.html')
    writeFileSync(file, page.replace('</body>', `<script>${actions}</script></body>`))
    const options = ['--headless', '--no-sandbox', '--disable-gpu', `--user-data-dir=${folder}/profile`]
    return execFileSync('chromium', [...options, '--dump-dom', `file://${file}`], { encoding: 'utf8', stdio: 'pipe' })
  } finally {
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
  }
}

browserTest(`keys zoom, move and show all in a browser${whyNoBrowser}`, () => {
  const press =
    "const press = (key) => document.querySelector('.map').dispatchEvent(new KeyboardEvent('keydown', { key, cancelable: true }))"
  const note = "const said = []; const note = () => said.push(document.querySelector('output').textContent)"
  const dom = inBrowser(
    `${press}; ${note}; note(); press('+'); note(); press('ArrowLeft'); note(); press('-'); note(); press('Home'); note();
     document.querySelector('td button').click(); note(); document.title = said.join('|') + '|' + document.querySelectorAll('.map').length + '|' + document.activeElement.getAttribute('class')`,
  )
  const [all, closer, left, farther, home, chosen, maps, focused] = between(dom, '<title>', '</title>').split('|')
  const span = (range = ''): bigint => {
    const [first = 0n, last = 0n] = range.split(' to ').map(BigInt)
    return last - first + 1n
  }
  expect(span(closer) * 2n - span(all)).toBeLessThan(2n)
  expect(BigInt(String(left?.split(' ')[0]))).toBeLessThan(BigInt(String(closer?.split(' ')[0])))
  expect(span(farther)).toBeGreaterThan(span(left))
  expect(home).toBe(all)
  expect(chosen).toBe('0x0 to 0x1fff')
  expect([maps, focused]).toEqual(['2', 'map'])
  expect(dom).toMatch(/aria-label="address space 0: 1 of 2 mappings from 0x0 to 0x1fff\./)
  expect(dom).toContain('<td class="ro">ro</td>')
})
