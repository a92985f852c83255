// What a command says: words and tables for eyes, or one JSON document of a versioned shape.

import { styleText } from 'node:util'

/** The version of every JSON document. It changes when something that is there changes its meaning or goes; what is added does not change it. */
export const JSON_VERSION = 1

/** Where text goes. */
export interface Sink {
  /** Takes text as it is. */
  write(text: string): unknown
  /** Whether a person reads it as it comes. */
  readonly isTTY?: boolean
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

/** Colours for a terminal; text as it is for everything else. */
export function paintFor(sink: Sink, environment: NodeJS.ProcessEnv): Paint {
  const isColoured = sink.isTTY === true && (environment.NO_COLOR ?? '') === '' && environment.TERM !== 'dumb'
  return isColoured ? (style, text) => styleText(style, text, { validateStream: false }) : (_style, text) => text
}

const BAR = 20

/** A bar on a terminal while long work goes on: how much is done, 0..1, and of what; undefined takes it away. Elsewhere nothing is written. */
export function progressOn(sink: Sink): (done: number | undefined, what?: string) => void {
  if (sink.isTTY !== true) return () => undefined
  return (done, what = '') => {
    const full = Math.round((done ?? 0) * BAR)
    const bar = `[${'#'.repeat(full)}${'.'.repeat(BAR - full)}] ${what}`
    sink.write(`\r\u001b[K${done === undefined ? '' : bar.slice(0, 79)}`)
  }
}

/** Columns under a heading, each as wide as its widest cell. */
export function table(heading: readonly string[], rows: readonly (readonly string[])[], paint: Paint): string[] {
  const widths = heading.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)))
  const line = (cells: readonly string[]) =>
    cells.map((cell, column) => (column === cells.length - 1 ? cell : cell.padEnd(widths[column] ?? 0))).join('  ')
  return [paint('bold', line(heading)), ...rows.map(line)]
}

/** One JSON document on a line of its own. */
export function jsonLine(data: Readonly<Record<string, unknown>>): string {
  const plain = (_key: string, value: unknown) => (typeof value === 'bigint' ? value.toString() : value)
  return `${JSON.stringify({ version: JSON_VERSION, ...data }, plain)}\n`
}
