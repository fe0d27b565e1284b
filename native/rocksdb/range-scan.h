// A pull-based scan over [from, to): fills the caller's buffers a stretch at a time.
//
// Invariants: the RocksDB iterator dies before its database (Instance sees to it); the bounds live as
// long as the iterator, which keeps pointers to them.
#pragma once

#include <rocksdb/db.h>

#include <memory>
#include <string>

#include "arena.h"
#include "database.h"

namespace millrace {

struct ScanTarget {
  View<uint8_t> key_bytes;
  View<uint32_t> key_offsets;
  View<uint8_t> value_bytes;
  View<uint32_t> value_offsets;
};

struct ScanStep {
  uint32_t rows;
  // When rows is 0 and more rows exist: what the next row needs.
  uint32_t key_bytes_needed;
  uint32_t value_bytes_needed;
  bool ended;
};

class RangeScan {
 public:
  // `to` null: to the end.
  RangeScan(std::shared_ptr<Database> database, std::string from, const std::string* to);

  // Fills `target` until it is full, the range ends, or `bytes_max` is reached.
  ScanStep Next(const ScanTarget& target, double bytes_max);
  const Database* database() const { return database_.get(); }

 private:
  std::shared_ptr<Database> database_;
  std::string from_;
  std::string to_;
  rocksdb::Slice upper_;
  std::unique_ptr<rocksdb::Iterator> iterator_;  // last, so that it is destroyed first
};

}  // namespace millrace
