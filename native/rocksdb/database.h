// One RocksDB database: the working set of one worker.
//
// Used by module.cc. Every function runs on the JavaScript thread that opened the store, except
// RunCheckpoint, which runs on a libuv thread. The write-ahead log is always off: what makes state
// durable is the checkpoint.
//
// Life of a checkpoint (`phase_`, guarded by `mutex_`):
//   kIdle -> BeginCheckpoint -> kSorting -> kSorted -> kApplied -> kDone -> FinishCheckpoint -> kIdle
// Between kIdle and kIdle no write of the JavaScript thread reaches RocksDB: it goes to the overlay.
// Reads look in the overlay, then (from kSorted on) in the batch in flight, then in RocksDB.
#pragma once

#include <rocksdb/db.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "arena.h"
#include "overlay.h"
#include "shared-resources.h"
#include "sorted-batch.h"

namespace millrace {

struct FileEntry {
  std::string name;
  uint64_t size;
};

// Where a multi-get puts its answer; the lengths were checked against the number of keys.
struct LookupTarget {
  View<uint8_t> bytes;
  uint32_t* offsets;
  uint8_t* found;
};

class Database {
 public:
  // Creates a database in an empty or new directory, or opens what a checkpoint left in it.
  // `memory_bytes` is what it may take for cached blocks and unflushed writes.
  static std::shared_ptr<Database> Open(const std::string& path, bool exists, uint64_t memory_bytes);
  ~Database();

  // Bytes needed for all values. When that is more than target.bytes holds, the bytes are not
  // complete: the caller grows its buffer and asks again.
  uint64_t MultiGet(const Arena& keys, const LookupTarget& target);
  void Write(const Batch& batch);
  void DeleteRange(const rocksdb::Slice& from, const rocksdb::Slice& to);
  // A consistent view; waits for the writes of a running checkpoint, so that the view is a plain RocksDB one.
  std::unique_ptr<rocksdb::Iterator> NewIterator(const rocksdb::ReadOptions& options);

  // Throws kArgument if one is running. The batch's memory is borrowed until FinishCheckpoint.
  // `directory` empty: the batch is applied, and no image made.
  // `sst_bytes_min`: batches at least this large become SST files, smaller ones a write batch.
  void BeginCheckpoint(Batch batch, std::string directory, uint64_t sst_bytes_min);
  // Any thread, once for each BeginCheckpoint. Never throws; CheckpointResult reports.
  void RunCheckpoint();
  // Waits for RunCheckpoint, then lets the waiting writes go down. Harmless when none is running.
  void FinishCheckpoint();
  // Of the finished checkpoint; to be taken once. Throws what it failed with.
  std::vector<FileEntry> TakeCheckpointResult();

  uint64_t MemoryBytes();
  bool closed() const { return db_ == nullptr; }
  // Waits for a running checkpoint (telling it to stop early). Iterators must be gone.
  void Close();

 private:
  enum class Phase { kIdle, kSorting, kSorted, kApplied, kDone };

  struct Answers;

  Database(std::string path, uint64_t memory_bytes) : path_(std::move(path)), memory_(memory_bytes) {}
  void Find(const Arena& keys, Answers* answers);
  Overlay::Answer FindLayered(const rocksdb::Slice& key, const SortedBatch* in_flight, rocksdb::Slice* value);
  uint64_t OverlayBytesMax() const;
  size_t WriteBatchBytes() const;
  Phase phase();
  void SetPhase(Phase phase);
  Phase WaitWhile(std::initializer_list<Phase> phases);
  void MergeOverlay();
  void WriteRows(const Batch& batch, const std::vector<uint32_t>* order);
  rocksdb::Status WriteWithResume(rocksdb::WriteBatch* batch);
  rocksdb::Status FlushEverything();
  void MakeImage();
  rocksdb::Status IngestRows(const SortedBatch& sorted);
  rocksdb::Status BuildFiles(const SortedBatch& sorted, std::vector<std::string>* files);
  void ThrowIfStopping() const;

  const std::string path_;
  StoreMemory memory_;
  rocksdb::Options options_;
  std::unique_ptr<rocksdb::DB> db_;
  Overlay overlay_;

  std::mutex mutex_;
  std::condition_variable changed_;
  Phase phase_ = Phase::kIdle;
  std::atomic<bool> stopping_{false};
  uint64_t files_built_ = 0;

  // The checkpoint in flight, or the last one. Written by the libuv thread before kDone (in_flight_'s
  // order before kSorted), read by the JavaScript thread after it has seen that phase.
  std::unique_ptr<SortedBatch> in_flight_;
  std::string directory_;
  uint64_t sst_bytes_min_ = 0;
  std::vector<FileEntry> files_;
  bool result_waits_ = false;  // begun, and TakeCheckpointResult not called yet
  const char* failure_code_ = nullptr;
  std::string failure_message_;
};

}  // namespace millrace
