// Every list of rows, and how many each has: what a runner registers, and what it compares with.

import { layouts } from './layouts.js'
import { published } from './published.js'
import type { RowCounts, RowList } from './row.js'

export const allRows: readonly RowList[] = [published, layouts]

export const rowCounts: RowCounts = { D: 33, 'D layout': 17 }
