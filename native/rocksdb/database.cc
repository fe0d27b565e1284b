// See database.h: opening, reading, writing, closing. checkpoint.cc holds the rest.
#include "database.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "failure.h"
#include "shared-resources.h"

namespace millrace {
namespace {

constexpr size_t kWriteBatchBytes = 4u << 20;
constexpr size_t kLookupRows = 128;

rocksdb::WriteOptions NoLog() {
  rocksdb::WriteOptions options;
  options.disableWAL = true;
  return options;
}

}  // namespace

std::shared_ptr<Database> Database::Open(const std::string& path, bool exists) {
  std::shared_ptr<Database> database(new Database(path));
  database->options_ = StoreOptions();
  database->options_.create_if_missing = !exists;
  database->options_.error_if_exists = !exists;
  rocksdb::DB* raw = nullptr;
  Check(rocksdb::DB::Open(database->options_, path, &raw));
  database->db_.reset(raw);
  return database;
}

Database::~Database() { Close(); }

void Database::Close() {
  if (db_ == nullptr) return;
  stopping_ = true;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return phase_ == Phase::kIdle || phase_ == Phase::kDone; });
    phase_ = Phase::kIdle;
  }
  in_flight_.reset();
  overlay_.Clear();
  db_->Close().PermitUncheckedError();
  db_.reset();
}

uint64_t Database::MultiGet(const Arena& keys, const LookupTarget& target) {
  // Rows still being sorted cannot be found yet, and they may be what is asked for.
  const SortedBatch* in_flight = WaitUntilSorted() == Phase::kIdle ? nullptr : in_flight_.get();
  const bool layered = in_flight != nullptr || !overlay_.Empty();
  rocksdb::ReadOptions options;
  std::array<rocksdb::Slice, kLookupRows> asked;
  std::array<rocksdb::PinnableSlice, kLookupRows> pinned;
  std::array<rocksdb::Status, kLookupRows> statuses;
  std::array<rocksdb::Slice, kLookupRows> values;  // of rows answered by a layer above RocksDB
  std::array<int32_t, kLookupRows> source;         // index into `pinned`, or one of these:
  constexpr int32_t kLayer = -1, kAbsent = -2;
  uint64_t total = 0;
  target.offsets[0] = 0;

  for (uint32_t start = 0; start < keys.count; start += kLookupRows) {
    const uint32_t rows = std::min<uint32_t>(kLookupRows, keys.count - start);
    uint32_t misses = 0;
    for (uint32_t i = 0; i < rows; i++) {
      const rocksdb::Slice key = keys.At(start + i);
      if (layered) {
        Overlay::Answer answer = overlay_.Find(key, &values[i]);
        if (answer == Overlay::Answer::kUnknown && in_flight != nullptr) {
          const int64_t row = in_flight->Find(key);
          if (row >= 0) {
            const bool deleted = in_flight->batch().IsDelete(static_cast<uint32_t>(row));
            answer = deleted ? Overlay::Answer::kAbsent : Overlay::Answer::kPresent;
            values[i] = in_flight->batch().values.At(static_cast<uint32_t>(row));
          }
        }
        if (answer != Overlay::Answer::kUnknown) {
          source[i] = answer == Overlay::Answer::kPresent ? kLayer : kAbsent;
          continue;
        }
      }
      asked[misses] = key;
      source[i] = static_cast<int32_t>(misses++);
    }
    if (misses > 0) {
      db_->MultiGet(options, db_->DefaultColumnFamily(), misses, asked.data(), pinned.data(), statuses.data());
    }
    for (uint32_t i = 0; i < rows; i++) {
      bool found = source[i] == kLayer;
      rocksdb::Slice value = found ? values[i] : rocksdb::Slice();
      if (source[i] >= 0 && !statuses[source[i]].IsNotFound()) {
        Check(statuses[source[i]]);
        found = true;
        value = pinned[source[i]];
      }
      target.found[start + i] = found ? 1 : 0;
      if (total + value.size() <= target.bytes.length && value.size() > 0) {
        std::memcpy(target.bytes.data + total, value.data(), value.size());
      }
      total += value.size();
      if (total > std::numeric_limits<uint32_t>::max()) {
        throw Failure(kArgument, "the values asked for are larger than 4 GiB together; ask for fewer keys");
      }
      target.offsets[start + i + 1] = static_cast<uint32_t>(total);
    }
    for (uint32_t i = 0; i < misses; i++) pinned[i].Reset();
  }
  return total;
}

void Database::Write(const Batch& batch) {
  if (phase() != Phase::kIdle) {
    overlay_.Add(batch);
    if (overlay_.Full()) FinishCheckpoint();
    return;
  }
  MergeOverlay();
  // In key order each insert into the memtable starts where the last one ended.
  SortedBatch sorted(batch);
  sorted.Sort();
  WriteRows(sorted.batch(), &sorted.rows());
}

void Database::DeleteRange(const rocksdb::Slice& from, const rocksdb::Slice& to) {
  if (phase() != Phase::kIdle) {
    overlay_.DeleteRange(from, to);
    if (overlay_.Full()) FinishCheckpoint();
    return;
  }
  MergeOverlay();
  rocksdb::WriteBatch batch;
  Check(batch.DeleteRange(from, to));
  Check(WriteWithResume(&batch));
}

std::unique_ptr<rocksdb::Iterator> Database::NewIterator(const rocksdb::ReadOptions& options) {
  FinishCheckpoint();
  MergeOverlay();
  return std::unique_ptr<rocksdb::Iterator>(db_->NewIterator(options));
}

uint64_t Database::MemoryBytes() {
  uint64_t total = overlay_.Bytes();
  for (const char* property : {"rocksdb.cur-size-all-mem-tables", "rocksdb.estimate-table-readers-mem"}) {
    uint64_t bytes = 0;
    if (db_->GetIntProperty(property, &bytes)) total += bytes;
  }
  return total;
}

// Writes that waited for a checkpoint go down. Stays filled when RocksDB cannot write now.
void Database::MergeOverlay() {
  if (overlay_.Empty()) return;
  overlay_.Drain(kWriteBatchBytes, [this](rocksdb::WriteBatch* batch) { Check(WriteWithResume(batch)); });
  overlay_.Clear();
}

// `order` null: as they come. Split, because the batch need not be atomic and a copy of it costs memory.
void Database::WriteRows(const Batch& batch, const std::vector<uint32_t>* order) {
  const size_t rows = order == nullptr ? batch.keys.count : order->size();
  rocksdb::WriteBatch chunk;
  for (size_t i = 0; i < rows; i++) {
    const uint32_t row = order == nullptr ? static_cast<uint32_t>(i) : (*order)[i];
    if (batch.IsDelete(row)) {
      Check(chunk.Delete(batch.keys.At(row)));
    } else {
      Check(chunk.Put(batch.keys.At(row), batch.values.At(row)));
    }
    if (chunk.GetDataSize() < kWriteBatchBytes) continue;
    Check(WriteWithResume(&chunk));
    chunk.Clear();
    if (order != nullptr) ThrowIfStopping();
  }
  if (chunk.Count() > 0) Check(WriteWithResume(&chunk));
}

// After a failed flush RocksDB refuses writes until Resume; the disk may have room again by now.
rocksdb::Status Database::WriteWithResume(rocksdb::WriteBatch* batch) {
  rocksdb::Status status = db_->Write(NoLog(), batch);
  if (status.ok() || !db_->Resume().ok()) return status;
  return db_->Write(NoLog(), batch);
}

Database::Phase Database::phase() {
  std::lock_guard<std::mutex> guard(mutex_);
  return phase_;
}

void Database::SetPhase(Phase phase) {
  {
    std::lock_guard<std::mutex> guard(mutex_);
    phase_ = phase;
  }
  changed_.notify_all();
}

// kIdle is answered at once.
Database::Phase Database::WaitUntilSorted() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return phase_ != Phase::kSorting; });
  return phase_;
}

void Database::ThrowIfStopping() const {
  if (stopping_) throw Failure(kClosed, "the store was closed");
}

}  // namespace millrace
