// What a command says: words and tables for eyes, or one JSON document of a versioned shape.

import { styleText } from 'node:util'
import { fit, printable, widthOf } from './terminal-text.js'

/** The version of every JSON document. It changes when something that is there changes its meaning or goes; what is added does not change it. */
export const JSON_VERSION = 1

/** Where text goes. */
export interface Sink {
  /** Takes text as it is. */
  write(text: string): unknown
  /** Whether a person reads it as it comes. */
  readonly isTTY?: boolean
  /** How many characters go on a line of a terminal, and how many lines on it. */
  readonly columns?: number
  readonly rows?: number
  /** Tells when a terminal has another size. */
  on?(event: 'resize', listener: () => void): unknown
  off?(event: 'resize', listener: () => void): unknown
}

/** What a command gives: `data` is the document, `lines` says the same to eyes. */
export interface Report {
  /** Plain data; bigints become decimal strings. */
  readonly data: Readonly<Record<string, unknown>>
  /** Lines for a person. */
  readonly lines: readonly string[]
  /** The exit code; default 0. */
  readonly exitCode?: number
}

/** How text looks: in colours on a terminal, unless NO_COLOR is set. */
export type Paint = (style: 'bold' | 'dim' | 'green' | 'red' | 'yellow', text: string) => string

/** Whether what was written can be drawn over: on a terminal that can more than a typewriter. */
export function canRedraw(sink: Sink, environment: NodeJS.ProcessEnv): boolean {
  return sink.isTTY === true && environment.TERM !== 'dumb'
}

/** Colours for a terminal; text as it is for everything else. */
export function paintFor(sink: Sink, environment: NodeJS.ProcessEnv): Paint {
  const isColoured = canRedraw(sink, environment) && (environment.NO_COLOR ?? '') === ''
  return isColoured ? (style, text) => styleText(style, text, { validateStream: false }) : (_style, text) => text
}

const BAR = 20

/** A bar on a terminal while long work goes on: how much is done, 0..1, and of what; undefined takes it away. Elsewhere nothing is written. */
export function progressOn(
  sink: Sink,
  environment: NodeJS.ProcessEnv,
): (done: number | undefined, what?: string) => void {
  if (!canRedraw(sink, environment)) return () => undefined
  return (done, what = '') => {
    const full = Math.round((done ?? 0) * BAR)
    const bar = `[${'#'.repeat(full)}${'.'.repeat(BAR - full)}] ${what}`
    // In the last column some terminals begin a new line.
    sink.write(`\r\u001b[K${done === undefined ? '' : fit(printable(bar), (sink.columns || 80) - 1)}`)
  }
}

/** Columns under a heading, each as wide as its widest cell; the last cell of a row may be longer, as a sentence in place of the columns that are left. */
export function table(heading: readonly string[], rows: readonly (readonly string[])[], paint: Paint): string[] {
  const safe = rows.map((row) => row.map(printable))
  const widths = heading.map((title, column) =>
    safe.reduce(
      (most, row) => (column < row.length - 1 ? Math.max(most, widthOf(row[column] ?? '')) : most),
      title.length,
    ),
  )
  const padded = (cell: string, column: number) => cell + ' '.repeat(Math.max(0, (widths[column] ?? 0) - widthOf(cell)))
  const line = (cells: readonly string[]) =>
    cells.map((cell, column) => (column === cells.length - 1 ? cell : padded(cell, column))).join('  ')
  return [paint('bold', line(heading)), ...safe.map(line)]
}

/** One JSON document on a line of its own. */
export function jsonLine(data: Readonly<Record<string, unknown>>): string {
  const plain = (_key: string, value: unknown) => (typeof value === 'bigint' ? value.toString() : value)
  return `${JSON.stringify({ version: JSON_VERSION, ...data }, plain)}\n`
}
