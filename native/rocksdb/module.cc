// The addon's exported functions; state/rocksdb-addon.ts types them and is their only caller.
//
// Handles are numbers (instance.h). Arenas come as (bytes, offsets, count). Errors carry a code
// (failure.h). The module keeps no state of its own beside the shared memory (shared-resources.h):
// each environment that loads it has its Instance. Loading it sets one limit of malloc for the whole process.
#include <rocksdb/version.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <memory>
#include <string>

#include "binding.h"
#include "shared-resources.h"

namespace millrace {
namespace {

// A checkpoint between its call and the settling of its promise. Owns itself; freed in Complete.
struct CheckpointWork {
  std::shared_ptr<Database> database;  // outlives a close() or a terminated worker
  napi_async_work work = nullptr;
  napi_deferred deferred = nullptr;
  napi_ref borrowed[2] = {nullptr, nullptr};  // keeps the batch's memory from being collected
};

// open(path, exists, memoryBytes) -> handle
napi_value Open(Call& call) {
  const std::string path = call.Path(0, "path");
  bool exists;
  if (napi_get_value_bool(call.env, call.Raw(1), &exists) != napi_ok) {
    throw Failure(kArgument, "exists is not a boolean");
  }
  const uint64_t memory = call.Whole(2, "memoryBytes");
  if (memory < kStoreMemoryBytesMin) throw Failure(kArgument, "memoryBytes is below 2 MiB");
  return NumberValue(call.env, call.instance().AddDatabase(Database::Open(path, exists, memory)));
}

// multiGet(store, keyBytes, keyOffsets, count, outBytes, outOffsets, outFound) -> bytes needed
napi_value MultiGet(Call& call) {
  const auto database = call.instance().DatabaseAt(call.Handle(0));
  const Arena keys = call.ArenaAt(1, kKeyBytesMax, "keys");
  const View<uint8_t> bytes = call.Bytes(4, "outBytes");
  const View<uint32_t> offsets = call.Offsets(5, "outOffsets");
  const View<uint8_t> found = call.Bytes(6, "outFound");
  if (offsets.length < static_cast<size_t>(keys.count) + 1 || found.length < keys.count) {
    throw Failure(kArgument, "the result arrays are shorter than the keys");
  }
  const uint64_t needed = database->MultiGet(keys, {bytes, offsets.data, found.data});
  return NumberValue(call.env, static_cast<double>(needed));
}

// write(store, keyBytes, keyOffsets, valueBytes, valueOffsets, count, deletes | null)
napi_value Write(Call& call) {
  const auto database = call.instance().DatabaseAt(call.Handle(0));
  const Batch batch = call.BatchAt(1);
  if (batch.keys.count > 0) database->Write(batch);
  return nullptr;
}

rocksdb::Slice SliceOf(const View<uint8_t>& view) {
  return rocksdb::Slice(reinterpret_cast<const char*>(view.data), view.length);
}

// deleteRange(store, from, to)
napi_value DeleteRange(Call& call) {
  const auto database = call.instance().DatabaseAt(call.Handle(0));
  const View<uint8_t> from = call.Bytes(1, "from");
  const View<uint8_t> to = call.Bytes(2, "to");
  if (from.length > kKeyBytesMax || to.length > kKeyBytesMax) throw Failure(kArgument, "a bound is too long");
  const int order = SliceOf(from).compare(SliceOf(to));
  if (order > 0) throw Failure(kArgument, "from comes after to");
  if (order < 0) database->DeleteRange(SliceOf(from), SliceOf(to));
  return nullptr;
}

// scanOpen(store, from, to | null) -> handle
napi_value ScanOpen(Call& call) {
  const auto database = call.instance().DatabaseAt(call.Handle(0));
  const std::string from = SliceOf(call.Bytes(1, "from")).ToString();
  std::string to;
  const bool bounded = !call.IsNull(2);
  if (bounded) {
    to = SliceOf(call.Bytes(2, "to")).ToString();
    if (rocksdb::Slice(from).compare(to) > 0) throw Failure(kArgument, "from comes after to");
  }
  auto scan = std::make_unique<RangeScan>(database, from, bounded ? &to : nullptr);
  return NumberValue(call.env, call.instance().AddScan(std::move(scan)));
}

// scanNext(scan, keyBytes, keyOffsets, valueBytes, valueOffsets, maxBytes, info) -> rows
// info (4 or more): [rows, key bytes needed, value bytes needed, 1 at the end]
napi_value ScanNext(Call& call) {
  RangeScan& scan = call.instance().ScanAt(call.Handle(0));
  const ScanTarget target{call.Bytes(1, "keyBytes"), call.Offsets(2, "keyOffsets"), call.Bytes(3, "valueBytes"),
                          call.Offsets(4, "valueOffsets")};
  const double bytes_max = call.Number(5, "maxBytes");
  const View<uint32_t> info = call.Offsets(6, "info");
  if (info.length < 4) throw Failure(kArgument, "info needs four slots");
  const ScanStep step = scan.Next(target, bytes_max);
  info.data[0] = step.rows;
  info.data[1] = step.key_bytes_needed;
  info.data[2] = step.value_bytes_needed;
  info.data[3] = step.ended ? 1 : 0;
  return NumberValue(call.env, step.rows);
}

napi_value ScanClose(Call& call) {
  call.instance().CloseScan(call.Handle(0));
  return nullptr;
}

void ExecuteCheckpoint(napi_env, void* data) { static_cast<CheckpointWork*>(data)->database->RunCheckpoint(); }

napi_value FilesValue(napi_env env, const std::vector<FileEntry>& files) {
  napi_value list;
  Check(napi_create_array_with_length(env, files.size(), &list));
  for (size_t i = 0; i < files.size(); i++) {
    napi_value entry, name;
    Check(napi_create_object(env, &entry));
    Check(napi_create_string_utf8(env, files[i].name.c_str(), files[i].name.size(), &name));
    Check(napi_set_named_property(env, entry, "name", name));
    Check(napi_set_named_property(env, entry, "size", NumberValue(env, static_cast<double>(files[i].size))));
    Check(napi_set_element(env, list, static_cast<uint32_t>(i), entry));
  }
  return list;
}

void Release(napi_env env, const CheckpointWork& work) {
  for (napi_ref reference : work.borrowed) {
    if (reference != nullptr) napi_delete_reference(env, reference);
  }
  if (work.work != nullptr) napi_delete_async_work(env, work.work);
}

// On the JavaScript thread. The environment may be going away: then N-API calls fail and only the
// freeing matters.
void CompleteCheckpoint(napi_env env, napi_status, void* data) {
  std::unique_ptr<CheckpointWork> work(static_cast<CheckpointWork*>(data));
  if (!work->database->closed()) work->database->FinishCheckpoint();
  try {
    if (work->deferred == nullptr) throw Failure(kClosed, "the environment is closing");
    napi_value files = FilesValue(env, work->database->TakeCheckpointResult());
    napi_resolve_deferred(env, work->deferred, files);
  } catch (const Failure& failure) {
    napi_value error = ErrorValue(env, failure.code(), failure.what());
    if (error != nullptr && work->deferred != nullptr) napi_reject_deferred(env, work->deferred, error);
  }
  Release(env, *work);
}

// writeAndCheckpoint(store, ...batch as in write, directory | null, sstBytesMin) -> promise of files; none without a
// directory, where the batch is applied and no image made
napi_value WriteAndCheckpoint(Call& call) {
  const auto database = call.instance().DatabaseAt(call.Handle(0));
  Batch batch = call.BatchAt(1);
  const std::string directory = call.IsNull(7) ? std::string() : call.Path(7, "directory");
  const uint64_t sst_bytes_min = call.Whole(8, "sstBytesMin");
  auto work = std::make_unique<CheckpointWork>();
  work->database = database;
  napi_value promise = nullptr;
  napi_value name;
  try {
    Check(napi_create_string_utf8(call.env, "millrace.checkpoint", NAPI_AUTO_LENGTH, &name));
    Check(napi_create_reference(call.env, call.Raw(1), 1, &work->borrowed[0]));
    Check(napi_create_reference(call.env, call.Raw(3), 1, &work->borrowed[1]));
    Check(napi_create_async_work(call.env, nullptr, name, ExecuteCheckpoint, CompleteCheckpoint, work.get(),
                                 &work->work));
    database->BeginCheckpoint(std::move(batch), directory, sst_bytes_min);
  } catch (...) {
    Release(call.env, *work);
    throw;
  }
  // Fails only when JavaScript cannot run any more; the work must still see its end.
  napi_create_promise(call.env, &work->deferred, &promise);
  if (napi_queue_async_work(call.env, work->work) != napi_ok) {
    database->RunCheckpoint();  // keeps the life cycle whole; cannot happen while the loop lives
    CompleteCheckpoint(call.env, napi_ok, work.release());
    return promise;
  }
  work.release();
  return promise;
}

napi_value MemoryBytes(Call& call) {
  return NumberValue(call.env, static_cast<double>(call.instance().DatabaseAt(call.Handle(0))->MemoryBytes()));
}

// sharedMemory() -> bytes of what all stores of the process share
napi_value SharedMemory(Call& call) {
  const SharedMemoryUse use = MeasureSharedMemory();
  napi_value result;
  Check(napi_create_object(call.env, &result));
  const auto set = [&](const char* name, uint64_t bytes) {
    Check(napi_set_named_property(call.env, result, name, NumberValue(call.env, static_cast<double>(bytes))));
  };
  set("cacheCapacity", use.cache_capacity);
  set("cache", use.cache);
  set("cachePinned", use.cache_pinned);
  set("writeBuffersCapacity", use.write_buffers_capacity);
  set("writeBuffers", use.write_buffers);
  return result;
}

napi_value Close(Call& call) {
  call.instance().CloseDatabase(call.Handle(0));
  return nullptr;
}

// lockFile(path) -> handle
napi_value LockFile(Call& call) {
  return NumberValue(call.env, call.instance().AddLock(std::make_unique<FileLock>(call.Path(0, "path"))));
}

napi_value UnlockFile(Call& call) {
  call.instance().CloseLock(call.Handle(0));
  return nullptr;
}

#ifdef __GLIBC__
// trimHeap(): gives the free pages of all malloc arenas back to the system. An arena outlives its thread.
napi_value TrimHeap(Call&) {
  ReturnFreeMemory();
  return nullptr;
}
#endif

void CleanUp(void* data) { static_cast<Instance*>(data)->CloseAll(); }

void Export(napi_env env, napi_value exports, const char* name, napi_callback function) {
  napi_value value;
  Check(napi_create_function(env, name, NAPI_AUTO_LENGTH, function, nullptr, &value));
  Check(napi_set_named_property(env, exports, name, value));
}

void Initialise(napi_env env, napi_value exports) {
  auto instance = std::make_unique<Instance>();
  Check(napi_add_env_cleanup_hook(env, CleanUp, instance.get()));
  Check(napi_set_instance_data(
      env, instance.get(), [](napi_env, void* data, void*) { delete static_cast<Instance*>(data); }, nullptr));
  instance.release();
  Export(env, exports, "open", Guarded<Open>);
  Export(env, exports, "multiGet", Guarded<MultiGet>);
  Export(env, exports, "write", Guarded<Write>);
  Export(env, exports, "deleteRange", Guarded<DeleteRange>);
  Export(env, exports, "scanOpen", Guarded<ScanOpen>);
  Export(env, exports, "scanNext", Guarded<ScanNext>);
  Export(env, exports, "scanClose", Guarded<ScanClose>);
  Export(env, exports, "writeAndCheckpoint", Guarded<WriteAndCheckpoint>);
  Export(env, exports, "memoryBytes", Guarded<MemoryBytes>);
  Export(env, exports, "sharedMemory", Guarded<SharedMemory>);
  Export(env, exports, "close", Guarded<Close>);
  Export(env, exports, "lockFile", Guarded<LockFile>);
  Export(env, exports, "unlockFile", Guarded<UnlockFile>);
#ifdef __GLIBC__
  Export(env, exports, "trimHeap", Guarded<TrimHeap>);
#endif
  napi_value version;
  const std::string text = rocksdb::GetRocksVersionAsString(true);
  Check(napi_create_string_utf8(env, text.c_str(), text.size(), &version));
  Check(napi_set_named_property(env, exports, "version", version));
}

}  // namespace
}  // namespace millrace

// Blocks of this size and more have mappings of their own, which go back to the system as soon as they are freed. glibc
// raises its limit to the largest block that was freed, up to 32 MiB; blocks below it then tear holes into arenas that
// stay resident.
constexpr int kMappedBlockBytes = 256 * 1024;

NAPI_MODULE_INIT() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, kMappedBlockBytes);
#endif
  try {
    millrace::Initialise(env, exports);
  } catch (const std::exception& error) {
    napi_throw_error(env, millrace::kFailed, error.what());
  }
  return exports;
}
