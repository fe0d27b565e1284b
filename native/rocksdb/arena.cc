// See arena.h.
#include "arena.h"

#include <cmath>
#include <string>

#include "failure.h"

namespace millrace {

Arena ParseArena(View<uint8_t> bytes, View<uint32_t> offsets, double count, uint32_t item_bytes_max,
                 const char* what) {
  const std::string name(what);
  if (!(count >= 0) || count != std::floor(count) || count > 4294967294.0) {
    throw Failure(kArgument, name + ": count is not a whole number of rows");
  }
  const size_t rows = static_cast<size_t>(count);
  if (offsets.length < rows + 1) throw Failure(kArgument, name + ": fewer offsets than count + 1");
  Arena arena;
  arena.bytes = reinterpret_cast<const char*>(bytes.data);
  arena.count = static_cast<uint32_t>(rows);
  arena.offsets.assign(offsets.data, offsets.data + rows + 1);
  uint32_t previous = arena.offsets[0];
  for (size_t i = 1; i <= rows; i++) {
    const uint32_t next = arena.offsets[i];
    if (next < previous) throw Failure(kArgument, name + ": offsets descend at row " + std::to_string(i - 1));
    if (next - previous > item_bytes_max) {
      throw Failure(kArgument, name + ": row " + std::to_string(i - 1) + " is longer than " +
                                   std::to_string(item_bytes_max) + " bytes");
    }
    previous = next;
  }
  if (previous > bytes.length) throw Failure(kArgument, name + ": offsets reach past the end of bytes");
  return arena;
}

Batch MakeBatch(Arena keys, Arena values, View<uint8_t> deletes) {
  if (keys.count != values.count) throw Failure(kArgument, "batch: keys and values differ in count");
  Batch batch;
  if (deletes.length > 0) {
    if (deletes.length < keys.count) throw Failure(kArgument, "batch: fewer deletes than rows");
    batch.deletes.assign(deletes.data, deletes.data + keys.count);
  }
  batch.keys = std::move(keys);
  batch.values = std::move(values);
  return batch;
}

}  // namespace millrace
