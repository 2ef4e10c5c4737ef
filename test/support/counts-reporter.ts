/**
 * Closes a test run with a plain line of counts and leaves them in `.test-results/counts.txt` for `.ci/run`.
 *
 * With CI=true a skipped test fails the run: a machine that runs CI has everything the tests need. A test that wants
 * special hardware, or a checkout of ComfyUI that somebody fetched, says so by starting its title with "[gpu]" or
 * "[comfyui]", and only such a test may be skipped there.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import type { Reporter, TestModule } from 'vitest/node';

const OPTIONAL = ['[gpu]', '[comfyui]'];

export default class CountsReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    const counts = { passed: 0, failed: 0, skipped: 0 };
    const forbiddenSkips: string[] = [];
    for (const module of modules) {
      if (module.state() === 'failed' && [...module.children.allTests()].length === 0) counts.failed += 1;
      for (const test of module.children.allTests()) {
        const { state } = test.result();
        if (state === 'passed') counts.passed += 1;
        else if (state === 'failed') counts.failed += 1;
        else {
          counts.skipped += 1;
          if (!OPTIONAL.some((mark) => test.name.startsWith(mark))) forbiddenSkips.push(test.fullName);
        }
      }
    }
    counts.failed += errors.length;
    if (process.env['CI'] === 'true' && forbiddenSkips.length > 0) {
      console.error(`Skipped although CI can run them:\n  ${forbiddenSkips.join('\n  ')}`);
      counts.failed += forbiddenSkips.length;
      process.exitCode = 1;
    }
    const line = `${counts.passed} passed, ${counts.failed} failed${counts.skipped > 0 ? `, ${counts.skipped} skipped` : ''}`;
    mkdirSync('.test-results', { recursive: true });
    writeFileSync('.test-results/counts.txt', `${line}\n`);
    console.log(line);
  }
}
