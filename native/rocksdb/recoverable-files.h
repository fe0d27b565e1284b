// The file system RocksDB writes through: the machine's own, with every failed write reported as
// "no space".
//
// RocksDB resumes after a disk that was full, but calls any other failed write (a quota, a file size
// limit, a network disk that was away) fatal: the memtable it was flushing could then never be written
// by this process, though it is still whole. A flush always starts a new file, so trying again is as
// safe for these as for a full disk. Reads are untouched.
#pragma once

#include <rocksdb/env.h>
#include <rocksdb/listener.h>

#include <memory>

namespace millrace {

// One environment for the whole process; never freed.
rocksdb::Env* RecoverableEnv();

// Turns off RocksDB's own recovery, which looks for free space every few seconds and refuses Resume
// meanwhile: the next call on the store resumes (database.cc), so it fails or succeeds by what the disk
// is like then.
std::shared_ptr<rocksdb::EventListener> ResumeByHand();

}  // namespace millrace
