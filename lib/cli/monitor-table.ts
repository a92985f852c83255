// What `monitor` draws on a terminal: as much of a look as the terminal has room for.

import type { MonitorLook } from './monitor.js'
import { table, type Paint } from './output.js'
import { fit, printable, widthOf } from './terminal-text.js'

/** What a terminal has room for; without end where it does not say, or says zero. */
export interface Room {
  readonly columns?: number
  readonly rows?: number
}

/** A row of the table. `words` are its last columns: a counter with value and rate, or the reason why there is none. */
interface Row {
  readonly device: string
  readonly node: string
  readonly heldBy: string
  readonly words: readonly string[]
}

const COUNTERS = ['QUEUE: COUNTER', 'VALUE', 'RATE']
/** Columns before the counter, as many as a terminal has room for. */
const LAYOUTS: readonly Readonly<Record<string, (row: Row) => string>>[] = [
  { DEVICE: ({ device }) => device, NODE: ({ node }) => node, 'HELD BY': ({ heldBy }) => heldBy },
  { DEVICE: ({ device }) => device, 'HELD BY': ({ heldBy }) => heldBy },
  { DEVICE: ({ device }) => device },
]

/** The lines of a look. One line stays free for the cursor; what has no room is counted, and what happened is always there. */
export function monitorLines({ at, devices, events }: MonitorLook, paint: Paint, room: Room): string[] {
  const [columns, rows] = [room.columns || Infinity, room.rows || Infinity]
  const [heading = '', ...body] = widestTable(devices.flatMap(rowsOf), paint, columns)
  const happened = events.slice(-Math.max(1, Math.floor(rows / 4))).map((event) => paint('yellow', printable(event)))
  const space = Math.max(1, rows - 3 - happened.length)
  const left = body.length - space + 1
  const shown = left > 1 ? [...body.slice(0, space - 1), paint('dim', `… and ${left} lines more`)] : body
  return [`${at}  (Ctrl-C ends)`, heading, ...shown, ...happened]
    .slice(0, Math.max(1, rows - 1))
    .map((line) => fit(line, columns))
}

/** The table with all its columns, or as many as have room. */
function widestTable(rows: readonly Row[], paint: Paint, columns: number): string[] {
  const tables = LAYOUTS.map((layout) => {
    const cells = (row: Row) => [...Object.values(layout).map((of) => of(row)), ...row.words]
    return table([...Object.keys(layout), ...COUNTERS], rows.map(cells), paint)
  })
  // A reason is long and may be cut; counters are what the table is for.
  const isWide = (lines: readonly string[]) =>
    lines.some((line, index) => widthOf(line) > columns && rows[index - 1]?.words.length !== 1)
  return tables.find((lines) => !isWide(lines)) ?? tables.at(-1) ?? []
}

function rowsOf({ name, node = '-', heldBy, queues, silence }: MonitorLook['devices'][number]): Row[] {
  const row = (...words: string[]): Row => ({ device: name, node, heldBy: heldBy.join('; ') || 'free', words })
  if (queues.length === 0) return [row(silence ?? 'no queues')]
  return queues.flatMap(({ queue, counters, rates }) =>
    Object.entries(counters).map(([counter, value]) =>
      row(`${queue}: ${counter}`, String(value), counter in rates ? `${Math.round(rates[counter] ?? 0)}/s` : ''),
    ),
  )
}
