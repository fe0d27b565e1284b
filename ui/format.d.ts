/** Types of format.js, for its tests. */
export const unknown: string
export function formatCount(value: number | null): string
export function formatExact(value: number | null): string
export function formatRate(value: number | null): string
export function formatBytes(value: number | null): string
export function formatPercent(share: number | null): string
export function formatDuration(ms: number | null): string
export function formatTime(ms: number | null): string
export function formatClock(ms: number | null): string
export function truncate(text: string, length: number): string
