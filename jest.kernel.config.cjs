// The suites of `npm run test:kernel`, compiled beforehand into build-lab/ because a compiler is slow on an emulated machine.
/** @type {import('jest').Config} */
module.exports = {
  testEnvironment: 'node',
  roots: ['<rootDir>/build-lab/test'],
  testMatch: ['<rootDir>/build-lab/test/kernel/**/*.test.js', '<rootDir>/build-lab/test/native/**/*.test.js'],
  transform: {},
  testTimeout: 120_000,
}
