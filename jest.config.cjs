// The suites of `npm test`: everything that runs without a device. What needs a kernel is in jest.kernel.config.cjs.
/** @type {import('jest').Config} */
module.exports = {
  testEnvironment: 'node',
  testMatch: ['<rootDir>/test/**/*.test.ts'],
  testPathIgnorePatterns: ['/node_modules/', '<rootDir>/test/kernel/', '<rootDir>/test/guests/'],
  modulePathIgnorePatterns: ['<rootDir>/build', '<rootDir>/dist/package.json'],
  moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': '$1' },
  transform: { '^.+\\.ts$': ['ts-jest', { tsconfig: 'tsconfig.json' }] },
}
