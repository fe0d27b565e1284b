/** Failures on the calling thread and between threads: nothing that was thrown keeps one from arriving. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { MillraceError } from '../core/errors.ts'
import { errorOf, failureAt, receivedFailure, sentFailure, stackWithCauses } from './worker-failure.ts'

class QuotaExceeded extends Error {
  override readonly name = 'QuotaExceeded'
  readonly code = 'E_QUOTA'
  readonly retry = () => {}
}

const NONE: ReadonlySet<string> = new Set()

describe('a failure on its way', () => {
  test('keeps what was thrown, its hint and domain on the calling thread', () => {
    const thrown = new QuotaExceeded('no more calls today')
    const error = new MillraceError('USER_FUNCTION_FAILED', 'It failed.', {
      hint: 'Wait.',
      domain: 'external',
      retryable: true,
      cause: thrown,
    })
    const arrived = errorOf(failureAt('Map #0', error, NONE))
    assert.equal(arrived.message, 'Map #0: It failed. Wait.')
    assert.deepEqual(
      [arrived.code, arrived.hint, arrived.domain, arrived.retryable],
      ['USER_FUNCTION_FAILED', 'Wait.', 'external', true],
    )
    assert.equal(arrived.cause, thrown)
    assert.equal(errorOf(failureAt('Map #0', thrown, NONE)).cause, thrown)
  })

  test('passes between threads with name, message, stack, code and causes', () => {
    const thrown = new QuotaExceeded('no more calls today', {
      cause: new Error('HTTP 429', { cause: { status: 429 } }),
    })
    const sent = structuredClone(sentFailure(failureAt('Map #0', thrown, NONE)))
    const { cause } = errorOf(receivedFailure(sent)) as { cause: QuotaExceeded }
    assert.ok(cause instanceof Error)
    assert.deepEqual(
      [cause.name, cause.message, cause.code, cause.stack],
      ['QuotaExceeded', 'no more calls today', 'E_QUOTA', thrown.stack],
    )
    const inner = cause.cause as Error
    assert.deepEqual([inner.message, inner.cause], ['HTTP 429', '[object Object]'])
  })

  test('its stack for people has those of its causes', () => {
    const thrown = new QuotaExceeded('no more calls today', { cause: new Error('HTTP 429') })
    const error = new MillraceError('USER_FUNCTION_FAILED', 'It failed.', { cause: thrown })
    const stack = stackWithCauses(failureAt('Map #0', error, NONE))!
    assert.match(
      stack,
      /^MillraceError: It failed\.\n(.|\n)*\ncaused by: \w+: no more calls(.|\n)*\ncaused by: Error: HTTP 429\n/,
    )
    assert.equal(stackWithCauses(failureAt('Map #0', new Error('x'), NONE))!.split('Error: x').length, 2)
    assert.equal(stackWithCauses(failureAt('Map #0', 'text', NONE)), null)
  })

  test('whatever was thrown can be sent', () => {
    const circular = new Error('round')
    circular.cause = circular
    for (const thrown of ['text', 7, 7n, null, undefined, Symbol('s'), () => {}, { a: () => {} }, circular]) {
      const sent = structuredClone(sentFailure(failureAt('Map #0', thrown, NONE)))
      assert.equal(errorOf(receivedFailure(sent)).code, 'TASK_FAILED')
    }
  })
})
