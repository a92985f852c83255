// The suites of `npm run test:kernel`, compiled beforehand into build-lab/ because a compiler is slow on an emulated machine.
/** @type {import('jest').Config} */
module.exports = {
  testEnvironment: 'node',
  roots: ['<rootDir>/build-lab/test'],
  testMatch: ['<rootDir>/build-lab/test/kernel/**/*.test.js', '<rootDir>/build-lab/test/native/**/*.test.js'],
  // Left to `npm test`: installing writes into the checkout, which is read-only there, and ten thousand cycles of opening and closing need no device
  // and take minutes on an emulated machine.
  testPathIgnorePatterns: ['/node_modules/', 'install\\.test\\.js$', 'lifetime\\.test\\.js$'],
  transform: {},
  testTimeout: 120_000,
}
