// What executorch_worker.py calls of ExecuTorch, with the types of C: opens a .pte file, runs its
// methods, and returns their results. Its own Python binding needs PyTorch, which an emulated ARM64
// Python does not have. Compiled against the C++ runtime of ExecuTorch's wheel.
//
// Every function returns 0 (or a pointer) if it worked; otherwise msd_error() has the reason. One
// thread at a time. XNNPACK runs in the calling thread.

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/extension/threadpool/threadpool_guard.h>

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::extension::threadpool::NoThreadPoolGuard;
using executorch::runtime::Error;
using executorch::runtime::EValue;

namespace {

struct Program {
  explicit Program(const char* path) : module(path) {}
  Module module;
  std::vector<EValue> results;  // of the last call
  std::string names;            // of the methods, one per line
};

std::string last_error;

int failed(const std::string& what, Error error) {
  last_error = what + ": " + executorch::runtime::to_string(error);
  return 1;
}

}  // namespace

extern "C" {

// An input: data in C order, read during the call. `type` is a number of ExecuTorch's ScalarType.
struct MsdTensor {
  void* data;
  int32_t type;
  int32_t dimensions;
  const int64_t* sizes;
};

const char* msd_error() { return last_error.c_str(); }

// Opens a file and reads its program; close it with msd_close. Null if it cannot be read.
void* msd_open(const char* path) {
  auto program = std::make_unique<Program>(path);
  const Error error = program->module.load();
  if (error != Error::Ok) {
    failed("the program cannot be read", error);
    return nullptr;
  }
  return program.release();
}

void msd_close(void* handle) { delete static_cast<Program*>(handle); }

// Returns the names of all methods, each followed by a line break; null if they cannot be read.
const char* msd_methods(void* handle) {
  auto* program = static_cast<Program*>(handle);
  const auto names = program->module.method_names();
  if (!names.ok()) {
    failed("the methods cannot be read", names.error());
    return nullptr;
  }
  program->names.clear();
  for (const auto& name : *names) program->names += name + "\n";
  return program->names.c_str();
}

// Prepares a method, which otherwise its first run does.
int msd_load(void* handle, const char* method) {
  NoThreadPoolGuard in_this_thread;
  const Error error = static_cast<Program*>(handle)->module.load_method(method);
  return error == Error::Ok ? 0 : failed(std::string(method) + " cannot be loaded", error);
}

// Runs a method; its results stay until the next run.
int msd_run(void* handle, const char* method, int32_t count, const MsdTensor* inputs) {
  NoThreadPoolGuard in_this_thread;
  auto* program = static_cast<Program*>(handle);
  std::vector<TensorPtr> tensors;
  std::vector<EValue> values;
  for (int32_t i = 0; i < count; ++i) {
    const MsdTensor& input = inputs[i];
    std::vector<SizesType> sizes(input.sizes, input.sizes + input.dimensions);
    tensors.push_back(executorch::extension::from_blob(
        input.data, std::move(sizes), static_cast<ScalarType>(input.type)));
    values.emplace_back(*tensors.back());
  }
  auto results = program->module.execute(method, values);
  if (!results.ok()) return failed(std::string(method) + " failed", results.error());
  program->results = std::move(*results);
  return 0;
}

// How many results the last run has.
int32_t msd_results(void* handle) {
  return static_cast<int32_t>(static_cast<Program*>(handle)->results.size());
}

// Describes a result that is a tensor: its data, which the next run overwrites, its type and sizes.
int msd_tensor(void* handle, int32_t index, const void** data, int32_t* type, int32_t* dimensions,
               int64_t* sizes, int32_t room) {
  const auto& results = static_cast<Program*>(handle)->results;
  if (index < 0 || static_cast<size_t>(index) >= results.size() || !results[index].isTensor()) {
    last_error = "a result is not a tensor";
    return 1;
  }
  const auto& tensor = results[index].toTensor();
  if (tensor.dim() > room) {
    last_error = "a result has too many dimensions";
    return 1;
  }
  *data = tensor.const_data_ptr();
  *type = static_cast<int32_t>(tensor.scalar_type());
  *dimensions = static_cast<int32_t>(tensor.dim());
  for (int32_t i = 0; i < *dimensions; ++i) sizes[i] = tensor.size(i);
  return 0;
}

// Returns the bytes of a result that is a text, and their number; null if it is something else.
const char* msd_text(void* handle, int32_t index, int64_t* length) {
  const auto& results = static_cast<Program*>(handle)->results;
  if (index < 0 || static_cast<size_t>(index) >= results.size() || !results[index].isString()) {
    last_error = "a result is not a text";
    return nullptr;
  }
  const auto text = results[index].toString();
  *length = static_cast<int64_t>(text.size());
  return text.data();
}

}  // extern "C"
