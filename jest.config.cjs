// The suites of `npm test`: everything that runs without a device. What needs a kernel is in jest.kernel.config.cjs.
// The time-out ends a test that hangs; it is far above what any needs, because a busy machine makes each of them fifty times slower.
/** @type {import('jest').Config} */
module.exports = {
  testEnvironment: 'node',
  testMatch: ['<rootDir>/test/**/*.test.ts'],
  testPathIgnorePatterns: ['/node_modules/', '<rootDir>/test/kernel/', '<rootDir>/test/guests/'],
  modulePathIgnorePatterns: ['<rootDir>/build', '<rootDir>/dist/package.json'],
  moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': '$1' },
  transform: { '^.+\\.ts$': ['ts-jest', { tsconfig: 'tsconfig.json' }] },
  testTimeout: 600_000,
}
