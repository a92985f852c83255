// Every list of rows, and how many each has: what a runner registers, and what it compares with.

import { explanations } from './explanations.js'
import { layouts } from './layouts.js'
import { pitfallsOfDriving } from './pitfalls-driving.js'
import { pitfallsOfMapping } from './pitfalls-mapping.js'
import { pitfallsOfOpening } from './pitfalls-opening.js'
import { pitfallsOfRings } from './pitfalls-rings.js'
import { published } from './published.js'
import { refusals } from './refusals.js'
import type { RowCounts, RowList } from './row.js'

const pitfalls: RowList = {
  title: 'the pitfalls that clients of vhost-vdpa have met',
  prefix: 'B.6',
  rows: { ...pitfallsOfOpening, ...pitfallsOfMapping, ...pitfallsOfRings, ...pitfallsOfDriving },
}

export const allRows: readonly RowList[] = [published, layouts, pitfalls, refusals, explanations]

export const rowCounts: RowCounts = { D: 33, 'D layout': 17, 'B.6': 44, 'S2.5': 34, F: 4 }
