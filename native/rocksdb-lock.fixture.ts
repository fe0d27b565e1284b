/** Run by rocksdb-addon.test.ts: holds the lock on argv[2], of kind argv[3], until it is killed. */
import { acquireFileLock, acquirePidFileLock } from '../state/file-lock.ts'

if (process.argv[3] === 'pid') acquirePidFileLock(process.argv[2]!)
else acquireFileLock(process.argv[2]!)
console.log('locked')
setInterval(() => {}, 1000)
