// See database.h: the checkpoint of a Database, from batch to directory of immutable files.
#include <rocksdb/sst_file_writer.h>
#include <rocksdb/utilities/checkpoint.h>

#include <chrono>
#include <filesystem>
#include <system_error>
#include <thread>

#include "database.h"
#include "failure.h"

namespace millrace {
namespace {

// The size at which an SST file built from a batch is closed and the next one begun.
constexpr uint64_t kSstFileBytes = 64u << 20;

// After a batch of this size it pays to look for memory that RocksDB's and our own buffers left behind.
constexpr uint64_t kTrimBytesMin = 4u << 20;

constexpr int kFlushAttempts = 20;
constexpr std::chrono::milliseconds kFlushPause(50);

std::vector<FileEntry> ListFiles(const std::string& directory) {
  std::vector<FileEntry> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.is_regular_file()) files.push_back({entry.path().filename().string(), entry.file_size()});
  }
  return files;
}

void RemoveQuietly(const std::vector<std::string>& files) {
  std::error_code ignored;
  for (const auto& file : files) std::filesystem::remove(file, ignored);
}

}  // namespace

void Database::BeginCheckpoint(Batch batch, std::string directory, uint64_t sst_bytes_min) {
  if (phase() != Phase::kIdle || result_waits_) throw Failure(kArgument, "a checkpoint of this store is already running");
  MergeOverlay();
  in_flight_ = std::make_unique<SortedBatch>(std::move(batch));
  directory_ = std::move(directory);
  sst_bytes_min_ = sst_bytes_min;
  files_.clear();
  failure_code_ = nullptr;
  result_waits_ = true;
  SetPhase(Phase::kSorting);
}

void Database::RunCheckpoint() {
  try {
    ThrowIfStopping();
    in_flight_->Sort();
    SetPhase(Phase::kSorted);
    if (!in_flight_->rows().empty()) {
      if (in_flight_->TotalBytes() >= sst_bytes_min_) {
        Check(IngestRows(*in_flight_));
      } else {
        WriteRows(in_flight_->batch(), &in_flight_->rows());
      }
    }
    SetPhase(Phase::kApplied);
    if (!directory_.empty()) MakeImage();
  } catch (const Failure& failure) {
    failure_code_ = failure.code();
    failure_message_ = failure.what();
  } catch (const std::filesystem::filesystem_error& error) {
    failure_code_ = kIo;
    failure_message_ = error.what();
  } catch (const std::exception& error) {
    failure_code_ = kFailed;
    failure_message_ = error.what();
  }
  if (in_flight_->TotalBytes() >= kTrimBytesMin) ReturnFreeMemory();
  SetPhase(Phase::kDone);
}

void Database::MakeImage() {
  ThrowIfStopping();
  Check(FlushEverything());
  rocksdb::Checkpoint* raw = nullptr;
  Check(rocksdb::Checkpoint::Create(db_.get(), &raw));
  std::unique_ptr<rocksdb::Checkpoint> checkpoint(raw);
  Check(checkpoint->CreateCheckpoint(directory_));
  files_ = ListFiles(directory_);
}

void Database::FinishCheckpoint() {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    if (phase_ == Phase::kIdle) return;
    changed_.wait(lock, [this] { return phase_ == Phase::kDone; });
    phase_ = Phase::kIdle;
  }
  in_flight_.reset();
  try {
    MergeOverlay();
  } catch (const Failure&) {
    // The overlay keeps the writes; the next call that needs them in RocksDB tries again and reports.
  }
}

std::vector<FileEntry> Database::TakeCheckpointResult() {
  result_waits_ = false;
  if (failure_code_ != nullptr) throw Failure(failure_code_, failure_message_);
  return std::move(files_);
}

// Flush after a recovery may return before the memtable is down (seen in 7.8.3: the image then lacked
// the newest writes, without any error). Nobody writes during a checkpoint, so it is possible to look.
rocksdb::Status Database::FlushEverything() {
  rocksdb::Status status;
  for (int attempt = 0; attempt < kFlushAttempts; attempt++) {
    status = db_->Flush(rocksdb::FlushOptions());
    uint64_t active = 1;
    uint64_t immutable = 1;
    const bool known = db_->GetIntProperty(rocksdb::DB::Properties::kNumEntriesActiveMemTable, &active) &&
                       db_->GetIntProperty(rocksdb::DB::Properties::kNumImmutableMemTable, &immutable);
    if (status.ok() && known && active == 0 && immutable == 0) return status;
    ThrowIfStopping();
    const rocksdb::Status resumed = db_->Resume();
    if (!resumed.ok()) return status.ok() ? resumed : status;
    if (attempt > 0) std::this_thread::sleep_for(kFlushPause);
  }
  return status.ok() ? rocksdb::Status::TryAgain("writes stay unflushed") : status;
}

rocksdb::Status Database::IngestRows(const SortedBatch& sorted) {
  std::vector<std::string> files;
  rocksdb::Status status = BuildFiles(sorted, &files);
  // Ingesting would flush what the files overlap, with the same hole.
  if (status.ok()) status = FlushEverything();
  if (status.ok()) {
    rocksdb::IngestExternalFileOptions options;
    options.move_files = true;
    options.write_global_seqno = false;  // the file is complete and never touched again
    status = db_->IngestExternalFile(files, options);
    if (!status.ok() && db_->Resume().ok()) status = db_->IngestExternalFile(files, options);
  }
  RemoveQuietly(files);
  return status;
}

// Writes the rows into SST files beside the database's own. Keys are strictly ascending, as the
// writer demands. `files` names everything begun, also on failure.
rocksdb::Status Database::BuildFiles(const SortedBatch& sorted, std::vector<std::string>* files) {
  const Batch& batch = sorted.batch();
  std::unique_ptr<rocksdb::SstFileWriter> writer;
  rocksdb::Status status;
  for (const uint32_t row : sorted.rows()) {
    if (writer == nullptr) {
      ThrowIfStopping();
      writer = std::make_unique<rocksdb::SstFileWriter>(rocksdb::EnvOptions(options_), options_, nullptr, false);
      files->push_back(path_ + "/batch-" + std::to_string(files_built_++) + ".sst");
      status = writer->Open(files->back());
      if (!status.ok()) return status;
    }
    const rocksdb::Slice key = batch.keys.At(row);
    status = batch.IsDelete(row) ? writer->Delete(key) : writer->Put(key, batch.values.At(row));
    if (!status.ok()) return status;
    if (writer->FileSize() < kSstFileBytes) continue;
    status = writer->Finish();
    if (!status.ok()) return status;
    writer.reset();
  }
  return writer == nullptr ? status : writer->Finish();
}

}  // namespace millrace
