// Key order over borrowed keys, and over a batch, last write of a key winning.
//
// Sorted input is what makes both ways of writing cheap (memtable inserts near each other; SST files
// need it), and it lets reads find rows of a batch that is still on its way into the database.
#pragma once

#include <cstdint>
#include <vector>

#include "arena.h"

namespace millrace {

// Rows of `keys` in key order, equal keys in the order they came in.
std::vector<uint32_t> SortedRows(const Arena& keys);

class SortedBatch {
 public:
  explicit SortedBatch(Batch batch) : batch_(std::move(batch)) {}

  // Builds the order; the other functions are valid after it.
  void Sort();

  const Batch& batch() const { return batch_; }
  // Rows in strictly ascending key order, one a key.
  const std::vector<uint32_t>& rows() const { return rows_; }
  // Bytes of the keys and values of all rows.
  uint64_t TotalBytes() const;
  // The row holding `key`, or -1.
  int64_t Find(const rocksdb::Slice& key) const;

 private:
  Batch batch_;
  std::vector<uint32_t> rows_;
};

}  // namespace millrace
