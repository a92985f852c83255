// Reads what jest wrote of `npm test` or of the guests, and fails when a suite of this checkout did not run, all of it was skipped, or a test was without saying why.
// check-test-report.mjs REPORT FOLDER [FOLDER TO LEAVE OUT ...]
import { conclude, lacksOf, readReport, suitesIn } from './reports.mjs'

const [path, folder, ...without] = process.argv.slice(2)
const { report, problem } = readReport(path)
conclude(folder, report, report === undefined ? [problem] : lacksOf(report, suitesIn([folder], without)))
