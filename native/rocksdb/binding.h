// The edge between N-API and the rest: reads arguments, checks their kinds, turns failures into
// JavaScript errors with a `code`.
//
// Every exported function has the shape `napi_value Body(Call&)` and is registered as
// `Guarded<Body>`. Bodies throw Failure; only the guard talks about errors to JavaScript.
#pragma once

#define NAPI_VERSION 8
#include <node_api.h>

#include <cmath>
#include <new>
#include <string>

#include "arena.h"
#include "failure.h"
#include "instance.h"

namespace millrace {

inline void Check(napi_status status) {
  if (status != napi_ok) throw Failure(kArgument, "unexpected N-API status " + std::to_string(status));
}

class Call {
 public:
  static constexpr size_t kArgumentsMax = 10;

  Call(napi_env env_, napi_callback_info info) : env(env_) {
    size_t count = kArgumentsMax;
    Check(napi_get_cb_info(env, info, &count, arguments_, nullptr, nullptr));
    void* data = nullptr;
    Check(napi_get_instance_data(env, &data));
    if (data == nullptr) throw Failure(kClosed, "the addon's environment is closing");
    instance_ = static_cast<Instance*>(data);
  }

  Instance& instance() { return *instance_; }
  napi_value Raw(size_t index) const { return arguments_[index]; }

  bool IsNull(size_t index) const {
    napi_valuetype type;
    Check(napi_typeof(env, arguments_[index], &type));
    return type == napi_null || type == napi_undefined;
  }

  double Number(size_t index, const char* what) const {
    double value;
    if (napi_get_value_double(env, arguments_[index], &value) != napi_ok) {
      throw Failure(kArgument, std::string(what) + " is not a number");
    }
    return value;
  }

  // Non-negative whole number up to 2^53.
  uint64_t Whole(size_t index, const char* what) const {
    const double value = Number(index, what);
    if (!(value >= 0) || value != std::floor(value) || value > 9007199254740992.0) {
      throw Failure(kArgument, std::string(what) + " is not a whole number");
    }
    return static_cast<uint64_t>(value);
  }

  // Handles that no table can hold are simply unknown ones.
  uint32_t Handle(size_t index) const {
    const double value = Number(index, "handle");
    return value >= 1 && value <= 4294967295.0 && value == std::floor(value) ? static_cast<uint32_t>(value) : 0;
  }

  // A path: not empty, no NUL.
  std::string Path(size_t index, const char* what) const {
    size_t size = 0;
    if (napi_get_value_string_utf8(env, arguments_[index], nullptr, 0, &size) != napi_ok) {
      throw Failure(kArgument, std::string(what) + " is not a string");
    }
    std::string text(size + 1, '\0');
    Check(napi_get_value_string_utf8(env, arguments_[index], text.data(), text.size(), &size));
    text.resize(size);
    if (text.empty()) throw Failure(kArgument, std::string(what) + " is empty");
    if (text.find('\0') != std::string::npos) throw Failure(kArgument, std::string(what) + " contains NUL");
    return text;
  }

  View<uint8_t> Bytes(size_t index, const char* what) const {
    return Typed<uint8_t>(index, napi_uint8_array, std::string(what) + " is not a Uint8Array");
  }
  View<uint32_t> Offsets(size_t index, const char* what) const {
    return Typed<uint32_t>(index, napi_uint32_array, std::string(what) + " is not a Uint32Array");
  }

  // Three arguments: bytes, offsets, count.
  Arena ArenaAt(size_t index, uint32_t item_bytes_max, const char* what) const {
    return ParseArena(Bytes(index, what), Offsets(index + 1, what), Number(index + 2, what), item_bytes_max, what);
  }

  // Six arguments: key bytes and offsets, value bytes and offsets, count, deletes or null.
  Batch BatchAt(size_t index) const {
    const double count = Number(index + 4, "batch");
    Arena keys = ParseArena(Bytes(index, "keys"), Offsets(index + 1, "keys"), count, kKeyBytesMax, "keys");
    Arena values = ParseArena(Bytes(index + 2, "values"), Offsets(index + 3, "values"), count, kValueBytesMax, "values");
    if (IsNull(index + 5)) return MakeBatch(std::move(keys), std::move(values), View<uint8_t>{nullptr, 0});
    View<uint8_t> deletes = Bytes(index + 5, "deletes");
    if (deletes.length < keys.count) throw Failure(kArgument, "batch: fewer deletes than rows");
    return MakeBatch(std::move(keys), std::move(values), deletes);
  }

  const napi_env env;

 private:
  template <typename T>
  View<T> Typed(size_t index, napi_typedarray_type wanted, const std::string& complaint) const {
    bool is_typed = false;
    Check(napi_is_typedarray(env, arguments_[index], &is_typed));
    if (!is_typed) throw Failure(kArgument, complaint);
    napi_typedarray_type type;
    size_t length = 0;
    void* data = nullptr;
    Check(napi_get_typedarray_info(env, arguments_[index], &type, &length, &data, nullptr, nullptr));
    if (type != wanted) throw Failure(kArgument, complaint);
    // A detached or empty array has no memory; RocksDB asserts that slices have some.
    static T nothing[1] = {0};
    return data == nullptr ? View<T>{nothing, 0} : View<T>{static_cast<T*>(data), length};
  }

  napi_value arguments_[kArgumentsMax];
  Instance* instance_;
};

inline napi_value ErrorValue(napi_env env, const char* code, const char* message) {
  napi_value code_value, message_value, error = nullptr;
  napi_create_string_utf8(env, code, NAPI_AUTO_LENGTH, &code_value);
  napi_create_string_utf8(env, message, NAPI_AUTO_LENGTH, &message_value);
  napi_create_error(env, code_value, message_value, &error);
  return error;
}

template <napi_value (*Body)(Call&)>
napi_value Guarded(napi_env env, napi_callback_info info) {
  try {
    Call call(env, info);
    return Body(call);
  } catch (const Failure& failure) {
    napi_throw_error(env, failure.code(), failure.what());
  } catch (const std::bad_alloc&) {
    napi_throw_error(env, kFailed, "out of memory");
  } catch (const std::exception& error) {
    napi_throw_error(env, kFailed, error.what());
  }
  return nullptr;
}

inline napi_value NumberValue(napi_env env, double value) {
  napi_value result;
  Check(napi_create_double(env, value, &result));
  return result;
}

}  // namespace millrace
