// See database.h: opening, reading, writing, closing. checkpoint.cc holds the rest.
#include "database.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "failure.h"

namespace millrace {
namespace {

constexpr size_t kWriteBatchBytesMax = 4u << 20;
// A batch goes into one memtable, whose size it must not decide.
constexpr size_t kWriteBatchesAMemtable = 4;
constexpr size_t kLookupRows = 128;
constexpr uint64_t kOverlayBytesMin = 1u << 20;

rocksdb::WriteOptions NoLog() {
  rocksdb::WriteOptions options;
  options.disableWAL = true;
  return options;
}

}  // namespace

std::shared_ptr<Database> Database::Open(const std::string& path, bool exists, uint64_t memory_bytes) {
  std::shared_ptr<Database> database(new Database(path, memory_bytes));
  database->options_ = StoreOptions(memory_bytes);
  database->options_.create_if_missing = !exists;
  database->options_.error_if_exists = !exists;
  rocksdb::DB* raw = nullptr;
  Check(rocksdb::DB::Open(database->options_, path, &raw));
  database->db_.reset(raw);
  return database;
}

Database::~Database() { Close(); }

size_t Database::WriteBatchBytes() const {
  return std::min(options_.write_buffer_size / kWriteBatchesAMemtable, kWriteBatchBytesMax);
}

uint64_t Database::OverlayBytesMax() const { return std::max<uint64_t>(memory_.bytes() / 2, kOverlayBytesMin); }

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
  memory_.Release();
}

// Answers by row, before they are put in order: values back to back in `bytes`.
struct Database::Answers {
  explicit Answers(uint32_t rows) : starts(rows, 0), sizes(rows, kAbsent) {}
  void Put(uint32_t row, const rocksdb::Slice& value) {
    starts[row] = bytes.size();
    sizes[row] = static_cast<uint32_t>(value.size());
    bytes.append(value.data(), value.size());
  }
  static constexpr uint32_t kAbsent = std::numeric_limits<uint32_t>::max();
  std::string bytes;
  std::vector<uint64_t> starts;
  std::vector<uint32_t> sizes;
};

uint64_t Database::MultiGet(const Arena& keys, const LookupTarget& target) {
  Answers answers(keys.count);
  Find(keys, &answers);
  uint64_t total = 0;
  target.offsets[0] = 0;
  for (uint32_t row = 0; row < keys.count; row++) {
    const bool found = answers.sizes[row] != Answers::kAbsent;
    const uint32_t size = found ? answers.sizes[row] : 0;
    target.found[row] = found ? 1 : 0;
    if (size > 0 && total + size <= target.bytes.length) {
      std::memcpy(target.bytes.data + total, answers.bytes.data() + answers.starts[row], size);
    }
    total += size;
    if (total > std::numeric_limits<uint32_t>::max()) {
      throw Failure(kArgument, "the values asked for are larger than 4 GiB together; ask for fewer keys");
    }
    target.offsets[row + 1] = static_cast<uint32_t>(total);
  }
  return total;
}

// In key order: keys that lie in one block, or under one piece of a filter or an index, are then asked for together.
void Database::Find(const Arena& keys, Answers* answers) {
  // Rows still being sorted cannot be found yet, and they may be what is asked for.
  const SortedBatch* in_flight = WaitWhile({Phase::kSorting}) == Phase::kIdle ? nullptr : in_flight_.get();
  const bool layered = in_flight != nullptr || !overlay_.Empty();
  const rocksdb::ReadOptions options;
  std::array<rocksdb::Slice, kLookupRows> asked;
  std::array<uint32_t, kLookupRows> rows;
  std::array<rocksdb::PinnableSlice, kLookupRows> pinned;
  std::array<rocksdb::Status, kLookupRows> statuses;
  uint32_t count = 0;
  const auto ask = [&] {
    if (count == 0) return;
    db_->MultiGet(options, db_->DefaultColumnFamily(), count, asked.data(), pinned.data(), statuses.data(), true);
    for (uint32_t i = 0; i < count; i++) {
      if (!statuses[i].IsNotFound()) {
        Check(statuses[i]);
        answers->Put(rows[i], pinned[i]);
      }
      pinned[i].Reset();
    }
    count = 0;
  };
  for (const uint32_t row : SortedRows(keys)) {
    const rocksdb::Slice key = keys.At(row);
    rocksdb::Slice value;
    const Overlay::Answer answer = layered ? FindLayered(key, in_flight, &value) : Overlay::Answer::kUnknown;
    if (answer == Overlay::Answer::kPresent) answers->Put(row, value);
    if (answer != Overlay::Answer::kUnknown) continue;
    asked[count] = key;
    rows[count++] = row;
    if (count == kLookupRows) ask();
  }
  ask();
}

// What the layers above RocksDB know of a key.
Overlay::Answer Database::FindLayered(const rocksdb::Slice& key, const SortedBatch* in_flight, rocksdb::Slice* value) {
  const Overlay::Answer answer = overlay_.Find(key, value);
  if (answer != Overlay::Answer::kUnknown || in_flight == nullptr) return answer;
  const int64_t row = in_flight->Find(key);
  if (row < 0) return Overlay::Answer::kUnknown;
  if (in_flight->batch().IsDelete(static_cast<uint32_t>(row))) return Overlay::Answer::kAbsent;
  *value = in_flight->batch().values.At(static_cast<uint32_t>(row));
  return Overlay::Answer::kPresent;
}

void Database::Write(const Batch& batch) {
  if (phase() != Phase::kIdle) {
    overlay_.Add(batch);
    if (overlay_.Full(OverlayBytesMax())) FinishCheckpoint();
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
    if (overlay_.Full(OverlayBytesMax())) FinishCheckpoint();
    return;
  }
  MergeOverlay();
  rocksdb::WriteBatch batch;
  Check(batch.DeleteRange(from, to));
  Check(WriteWithResume(&batch));
}

std::unique_ptr<rocksdb::Iterator> Database::NewIterator(const rocksdb::ReadOptions& options) {
  // Once the batch is in RocksDB only writes that came after it are not; without any there is no need to wait for the image.
  if (WaitWhile({Phase::kSorting, Phase::kSorted}) != Phase::kApplied || !overlay_.Empty()) {
    FinishCheckpoint();
    MergeOverlay();
  }
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
  overlay_.Drain(WriteBatchBytes(), [this](rocksdb::WriteBatch* batch) { Check(WriteWithResume(batch)); });
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
    if (chunk.GetDataSize() < WriteBatchBytes()) continue;
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
Database::Phase Database::WaitWhile(std::initializer_list<Phase> phases) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return std::find(phases.begin(), phases.end(), phase_) == phases.end(); });
  return phase_;
}

void Database::ThrowIfStopping() const {
  if (stopping_) throw Failure(kClosed, "the store was closed");
}

}  // namespace millrace
