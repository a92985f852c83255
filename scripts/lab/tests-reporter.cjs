// Says now and then how far the tests in the guest have come: jest itself is silent until a whole suite has ended, which takes minutes on an emulated machine,
// and the lab ends a machine of which nothing is heard.
const INTERVAL = 20_000

module.exports = class TestsReporter {
  #count = 0
  #said = Date.now()

  onTestCaseResult(_test, { fullName }) {
    this.#count++
    if (Date.now() - this.#said < INTERVAL) return
    this.#said = Date.now()
    process.stderr.write(`${this.#count} tests ended, the last: ${fullName}\n`)
  }
}
