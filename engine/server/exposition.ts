/**
 * Writer of the Prometheus text exposition format, version 0.0.4 (prometheus.io, "Exposition formats").
 *
 * metrics.ts fills it. Invariants: a family is written once, with HELP and TYPE before its samples;
 * label values and help texts are escaped; a family without samples is left out.
 */
import { assert } from '../core/assert.ts'

export type MetricType = 'counter' | 'gauge' | 'summary'
export type Labels = Readonly<Record<string, string | number>>

/** One metric name with its samples. */
export interface MetricFamily {
  /** Adds a sample. `null` means "not known" and adds nothing. */
  add(labels: Labels, value: number | null): void
  /** As `add`, for the samples of a summary whose names have a suffix. */
  addSuffixed(suffix: '_sum' | '_count', labels: Labels, value: number): void
}

const metricName = /^[a-zA-Z_][a-zA-Z0-9_]*$/
const labelName = /^[a-zA-Z_][a-zA-Z0-9_]*$/

function escapeHelp(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')
}

function escapeLabel(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')
}

function formatValue(value: number): string {
  if (value === Number.POSITIVE_INFINITY) return '+Inf'
  if (value === Number.NEGATIVE_INFINITY) return '-Inf'
  return Number.isNaN(value) ? 'NaN' : String(value)
}

function formatLabels(labels: Labels): string {
  const parts: string[] = []
  for (const [name, value] of Object.entries(labels)) {
    assert(labelName.test(name) && !name.startsWith('__'), `"${name}" is a legal label name`)
    parts.push(`${name}="${escapeLabel(String(value))}"`)
  }
  return parts.length === 0 ? '' : `{${parts.join(',')}}`
}

/** Collects families in the order in which they are declared. */
export class Exposition {
  readonly #families = new Map<string, { readonly head: string; readonly lines: string[] }>()

  family(name: string, type: MetricType, help: string): MetricFamily {
    assert(metricName.test(name), `"${name}" is a legal metric name`)
    assert(!this.#families.has(name), `metric ${name} is declared once`)
    const lines: string[] = []
    this.#families.set(name, { head: `# HELP ${name} ${escapeHelp(help)}\n# TYPE ${name} ${type}\n`, lines })
    return {
      add(labels, value) {
        if (value !== null) lines.push(`${name}${formatLabels(labels)} ${formatValue(value)}\n`)
      },
      addSuffixed(suffix, labels, value) {
        lines.push(`${name}${suffix}${formatLabels(labels)} ${formatValue(value)}\n`)
      },
    }
  }

  toString(): string {
    let text = ''
    for (const { head, lines } of this.#families.values()) {
      if (lines.length > 0) text += head + lines.join('')
    }
    return text
  }
}
