// A topology as a picture: a self-contained SVG, whose text can be read by a screen reader and in light and dark surroundings.

import { queueName, queuesOf, shown } from './text.js'
import { checkTopology, type Topology, type TopologySpace } from './topology.js'

const WIDTH = 720
const LINE = 18
const PAD = 12
/** The height of a queue's or a group's box; the next one begins LINE + PAD below. */
const ROW = LINE + 6
/** Left edges of the three columns: queues, groups, address spaces. */
const COLUMNS = { queue: 16, group: 230, space: 420 } as const
const BOX = { queue: 170, group: 130, space: 284 } as const

interface Drawing {
  readonly parts: readonly string[]
  /** The y that is free below. */
  readonly bottom: number
}

/** The picture as one SVG document. */
export function topologySvg(topology: Topology): string {
  checkTopology(topology)
  const title = `${topology.path} (${topology.kind ?? 'device'})`
  let y = 2 * LINE + PAD
  const parts: string[] = []
  for (const space of topology.spaces) {
    const drawn = drawSpace(topology, space, y)
    parts.push(...drawn.parts)
    y = drawn.bottom + PAD
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y}" width="${WIDTH}" height="${y}" role="img" aria-labelledby="t">`,
    `<title id="t">${escape(title)}</title>`,
    `<style>svg{background:#fff}text{font:13px sans-serif;fill:#111}.head{font-weight:bold}rect{fill:#f3f6fa;stroke:#35506b}path{fill:none;stroke:#35506b}`,
    `@media (prefers-color-scheme:dark){svg{background:#111}text{fill:#eee}rect{fill:#1d2733;stroke:#9db8d4}path{stroke:#9db8d4}}</style>`,
    text(COLUMNS.queue, LINE, title, 'head'),
    ...parts,
    '</svg>',
  ].join('\n')
}

/** An address space on the right, the groups in it, and their queues on the left. */
function drawSpace(topology: Topology, { asid, mappings }: TopologySpace, top: number): Drawing {
  const parts: string[] = []
  const lines = shown(mappings)
  const groups = topology.groups.filter((group) => group.asid === asid)
  let y = top
  for (const { index } of groups) {
    const queues = queuesOf(topology, index)
    const height = Math.max(1, queues.length) * (LINE + PAD)
    const middle = y + (height - (LINE + PAD - ROW)) / 2
    parts.push(...box('group', middle - ROW / 2, `group ${index}`))
    queues.forEach((queue, place) => {
      const at = y + place * (LINE + PAD)
      parts.push(...box('queue', at, queueName(queue)))
      parts.push(line(COLUMNS.queue + BOX.queue, at + ROW / 2, COLUMNS.group, middle))
    })
    parts.push(line(COLUMNS.group + BOX.group, middle, COLUMNS.space, top + ROW / 2))
    y += height + PAD
  }
  const spaceHeight = (lines.length + 1) * LINE + PAD
  parts.push(
    `<rect x="${COLUMNS.space}" y="${top}" width="${BOX.space}" height="${spaceHeight}" rx="4"/>`,
    text(COLUMNS.space + 8, top + LINE, `asid ${asid}`, 'head'),
    ...lines.map((words, index) => text(COLUMNS.space + 8, top + (index + 2) * LINE, words)),
  )
  return { parts, bottom: Math.max(y, top + spaceHeight) }
}

function box(column: 'queue' | 'group', y: number, words: string): string[] {
  const x = COLUMNS[column]
  return [`<rect x="${x}" y="${y}" width="${BOX[column]}" height="${ROW}" rx="4"/>`, text(x + 8, y + LINE - 1, words)]
}

function line(x1: number, y1: number, x2: number, y2: number): string {
  const half = (x1 + x2) / 2
  return `<path d="M${x1} ${y1} C${half} ${y1} ${half} ${y2} ${x2} ${y2}"/>`
}

function text(x: number, y: number, words: string, kind?: string): string {
  return `<text x="${x}" y="${y}"${kind === undefined ? '' : ` class="${kind}"`}>${escape(words)}</text>`
}

function escape(words: string): string {
  return words.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')
}
