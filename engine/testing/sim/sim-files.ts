/**
 * What is stored where at this instant, local or remote: for the oracle, and for faults that damage files.
 *
 * Used by sim-invariants.ts, sim-results.ts and sim-run.ts. The engine never sees it.
 */
import { createHash } from 'node:crypto'
import { isObjectUrl, splitObjectUrl } from '../../contract/object-store.ts'
import type { DiskObserver, SimDisk } from './sim-disk.ts'
import type { SimObjects } from './sim-object-store.ts'

export class SimFiles {
  private readonly disk: SimDisk
  private readonly objects: SimObjects
  /** What rotten files were before, by path. */
  private readonly sound = new Map<string, Buffer>()
  /** Was a file ever rotten? What was read from it may be found out later. */
  hadRot = false
  /** Of what rotten files held: nobody ever wrote that. */
  private readonly rottenHashes = new Set<string>()

  constructor(disk: SimDisk, objects: SimObjects) {
    this.disk = disk
    this.objects = objects
  }

  set observer(observer: DiskObserver) {
    this.disk.observer = observer
    this.objects.observer = observer
  }

  exists(path: string): boolean {
    return isObjectUrl(path) ? this.objects.has(splitObjectUrl(path).key) : this.disk.exists(path)
  }

  /** Would a file be there with at least so many bytes after a power cut at this instant? */
  survives(path: string, size: number): boolean {
    if (!isObjectUrl(path)) return this.disk.survives(path, size)
    const { key } = splitObjectUrl(path)
    return this.objects.has(key) && this.objects.getNow(key).length >= size
  }

  /** Throws ENOENT. */
  read(path: string): Buffer {
    return isObjectUrl(path) ? this.objects.getNow(splitObjectUrl(path).key) : this.disk.readNow(path)
  }

  /** As the file was written, whatever became of it. Throws ENOENT. */
  readSound(path: string): Buffer {
    return this.sound.get(path) ?? this.read(path)
  }

  /** Flips a bit, at a place between 0 and 1, for good: until `restore`. */
  rot(path: string, place: number): void {
    const bytes = this.read(path)
    if (!this.sound.has(path)) this.sound.set(path, bytes)
    this.hadRot = true
    const rotten = Buffer.from(bytes)
    const bit = Math.floor(place * rotten.length * 8)
    rotten[bit >> 3]! ^= 1 << (bit & 7)
    this.rottenHashes.add(sha256Of(rotten))
    this.change(path, rotten)
  }

  /** Is this the hash of damage? */
  isOfRot(sha256: string): boolean {
    return this.rottenHashes.has(sha256)
  }

  /** Local files below a directory whose content has one of these hashes. */
  localCopies(directory: string, hashes: ReadonlySet<string>): string[] {
    return this.disk.listNow(directory).flatMap((name) => {
      const path = `${directory}/${name}`
      if (!this.disk.isFile(path)) return this.localCopies(path, hashes)
      return hashes.has(sha256Of(this.disk.readNow(path))) ? [path] : []
    })
  }

  private change(path: string, bytes: Uint8Array): void {
    if (isObjectUrl(path)) this.objects.putNow(splitObjectUrl(path).key, bytes)
    else this.disk.changeNow(path, bytes)
  }

  get hasRot(): boolean {
    return this.sound.size > 0
  }

  /** Rotten files that are still there get their bytes back. */
  restore(): void {
    for (const [path, bytes] of this.sound) if (this.exists(path)) this.change(path, bytes)
    this.sound.clear()
  }

  list(path: string): string[] {
    return isObjectUrl(path) ? this.objects.namesIn(splitObjectUrl(path).key) : this.disk.listNow(path)
  }

  /** By hand, once nothing is under way that could reach the file. */
  repair(path: string, bytes: Uint8Array): void {
    if (isObjectUrl(path)) this.objects.repairNow(splitObjectUrl(path).key, bytes)
    else this.disk.overwriteNow(path, bytes)
  }

  /** Damage to the medium. */
  overwrite(path: string, bytes: Uint8Array): void {
    if (isObjectUrl(path)) this.objects.putNow(splitObjectUrl(path).key, bytes)
    else this.disk.overwriteNow(path, bytes)
  }
}

export function sha256Of(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}
