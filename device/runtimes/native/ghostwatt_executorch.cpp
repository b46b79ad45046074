// See ghostwatt_executorch.h. Links to the shared libraries of the executorch wheel; needs no torch.

#include "ghostwatt_executorch.h"

#include <executorch/extension/data_loader/file_data_loader.h>
#include <executorch/extension/memory_allocator/malloc_memory_allocator.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <vector>

// The wheel has this class in libexecutorch_threadpool.so, but ships no header for it.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;
using executorch::extension::FileDataLoader;
using executorch::extension::MallocMemoryAllocator;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::HierarchicalAllocator;
using executorch::runtime::MemoryManager;
using executorch::runtime::Method;
using executorch::runtime::MethodMeta;
using executorch::runtime::Program;
using executorch::runtime::Span;
using executorch::runtime::TensorInfo;

constexpr char kMethod[] = "forward";
constexpr char kBackend[] = "XnnpackBackend";
constexpr int kChannels = 3;

// Far beyond any network that this is for; what is beyond them is damage.
constexpr int32_t kMaxSidePx = 4096;
constexpr int32_t kMaxClasses = 1 << 20;
constexpr int64_t kMaxArenaBytes = int64_t{1} << 30;

// XNNPACK may read, and throw away, up to 128 bytes beyond the end of a tensor (XNN_EXTRA_BYTES in its xnnpack.h).
constexpr size_t kReadBeyondEnd = 128;

// --- What ExecuTorch says goes to whoever called, not to stderr -------------------------------------------------------

thread_local std::string last_message;

void keep_message(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* text, size_t length) {
  // The first error names the cause; those that follow only say that their callee failed.
  if ((level == et_pal_log_level_t::kError || level == et_pal_log_level_t::kFatal) && last_message.empty()) {
    last_message.assign(text, length);
  }
}

void initialise_once() {
  static std::once_flag once;
  std::call_once(once, [] {
    executorch::runtime::runtime_init();
    executorch::runtime::register_pal(executorch::runtime::PalImpl::create(keep_message, __FILE__));
  });
}

int32_t report(int32_t status, char* message) {
  std::snprintf(message, GW_MESSAGE_BYTES, "%s", status == GW_OK ? "" : last_message.c_str());
  return status;
}

int32_t code(Error error) {
  return static_cast<int32_t>(error);
}

int32_t fail(int32_t status, std::string text) {
  last_message = std::move(text);
  return status;
}

// --- The process's thread pool ----------------------------------------------------------------------------------------

std::mutex pool_mutex;
int open_networks = 0;

// Each network keeps a pointer to the pool, so that the pool may only be replaced while none is open.
int32_t acquire_pool(int32_t threads) {
  const std::lock_guard<std::mutex> lock(pool_mutex);
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (pool == nullptr) {
    return fail(GW_NO_THREAD_POOL, "ExecuTorch could not read the processor's features");
  }
  const auto current = static_cast<int32_t>(pool->get_thread_count());
  if (current != threads) {
    if (open_networks > 0) {
      return fail(GW_THREADS_BUSY, "an open network uses " + std::to_string(current) + " threads");
    }
    if (!pool->_unsafe_reset_threadpool(static_cast<uint32_t>(threads))) {
      return fail(GW_NO_THREAD_POOL, "the pool can't be set to " + std::to_string(threads) + " threads");
    }
  }
  ++open_networks;
  return GW_OK;
}

void release_pool() {
  const std::lock_guard<std::mutex> lock(pool_mutex);
  --open_networks;
}

// --- Pixels to the network's input ------------------------------------------------------------------------------------

// The contract of every artefact (device/contract/tensor.py): real = (pixel - 128) / 127.5; int8 = pixel ^ 0x80.
template <typename T, typename Rule>
std::array<T, 256> make_table(Rule rule) {
  std::array<T, 256> table{};
  for (int pixel = 0; pixel < 256; ++pixel) {
    table[pixel] = static_cast<T>(rule(pixel));
  }
  return table;
}

template <typename T>
void convert(const uint8_t* pixels, size_t area, bool is_channels_last, const std::array<T, 256>& table, void* input) {
  T* to = static_cast<T*>(input);
  if (is_channels_last) {
    for (size_t i = 0; i < area * kChannels; ++i) {
      to[i] = table[pixels[i]];
    }
    return;
  }
  T* red = to;
  T* green = to + area;
  T* blue = to + 2 * area;
  for (size_t i = 0; i < area; ++i) {
    red[i] = table[pixels[kChannels * i]];
    green[i] = table[pixels[kChannels * i + 1]];
    blue[i] = table[pixels[kChannels * i + 2]];
  }
}

// The contract of every artefact (device/contract/tensor.py): real = (pixel - 128) / 127.5; int8 = pixel ^ 0x80.
void write_input(const gw_description& about, const uint8_t* pixels, void* input) {
  static const auto reals = make_table<float>([](int pixel) { return (pixel - 128) / 127.5; });
  static const auto signs = make_table<uint8_t>([](int pixel) { return pixel ^ 0x80; });
  static const auto same = make_table<uint8_t>([](int pixel) { return pixel; });
  const size_t area = static_cast<size_t>(about.side_px) * static_cast<size_t>(about.side_px);
  if (about.input.dtype == GW_FLOAT32) {
    convert(pixels, area, about.is_channels_last, reals, input);
  } else {
    convert(pixels, area, about.is_channels_last, about.input.dtype == GW_INT8 ? signs : same, input);
  }
}

// --- The signature ----------------------------------------------------------------------------------------------------

bool describe_tensor(const TensorInfo& info, gw_tensor* tensor) {
  switch (info.scalar_type()) {
    case ScalarType::Byte:
      tensor->dtype = GW_UINT8;
      break;
    case ScalarType::Char:
      tensor->dtype = GW_INT8;
      break;
    case ScalarType::Float:
      tensor->dtype = GW_FLOAT32;
      break;
    default:
      return false;
  }
  if (info.sizes().size() > GW_MAX_RANK) {
    return false;
  }
  tensor->rank = static_cast<int32_t>(info.sizes().size());
  for (int32_t axis = 0; axis < tensor->rank; ++axis) {
    tensor->shape[axis] = info.sizes()[axis];
  }
  return true;
}

template <size_t N>
bool equals(Span<const uint8_t> dim_order, const uint8_t (&wanted)[N]) {
  return dim_order.size() == N && std::memcmp(dim_order.data(), wanted, N) == 0;
}

// An image is (1, 3, S, S), plane by plane or with its channels last in memory, or (1, S, S, 3).
bool describe_input(const TensorInfo& info, gw_description* description) {
  gw_tensor& tensor = description->input;
  if (!describe_tensor(info, &tensor) || tensor.rank != 4 || tensor.shape[0] != 1) {
    return false;
  }
  const bool is_in_order = equals(info.dim_order(), {0, 1, 2, 3});
  const bool is_channel_first_shape = tensor.shape[1] == kChannels;
  if (!is_in_order && !(is_channel_first_shape && equals(info.dim_order(), {0, 2, 3, 1}))) {
    return false;
  }
  description->is_channels_last = !is_channel_first_shape || !is_in_order;
  description->side_px = tensor.shape[2];
  const int32_t other_side = is_channel_first_shape ? tensor.shape[3] : tensor.shape[1];
  const int32_t channels = is_channel_first_shape ? tensor.shape[1] : tensor.shape[3];
  return channels == kChannels && other_side == description->side_px && other_side > 0 && other_side <= kMaxSidePx;
}

bool describe_output(const TensorInfo& info, gw_tensor* tensor) {
  if (!describe_tensor(info, tensor) || tensor->rank != 2 || !equals(info.dim_order(), {0, 1})) {
    return false;
  }
  return tensor->shape[0] == 1 && tensor->shape[1] > 0 && tensor->shape[1] <= kMaxClasses;
}

int32_t read_signature(const MethodMeta& meta, gw_description* description) {
  if (meta.num_inputs() != 1 || meta.num_outputs() != 1) {
    return fail(
        GW_SIGNATURE,
        std::to_string(meta.num_inputs()) + " inputs and " + std::to_string(meta.num_outputs()) + " outputs");
  }
  const auto input = meta.input_tensor_meta(0);
  if (!input.ok()) {
    return code(input.error());
  }
  const auto output = meta.output_tensor_meta(0);
  if (!output.ok()) {
    return code(output.error());
  }
  if (!describe_input(input.get(), description)) {
    return fail(GW_SIGNATURE, "the input is no image: (1, 3, S, S) or (1, S, S, 3), float32, int8 or uint8");
  }
  if (!describe_output(output.get(), &description->output)) {
    return fail(GW_SIGNATURE, "the output is no row of scores: (1, C), float32, int8 or uint8");
  }
  return GW_OK;
}

// Loading fails already where an operator has no kernel, and we link none; yet another library of the process may have
// registered some.
int32_t check_delegation(const MethodMeta& meta) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  // "Deprecated" here marks an experimental interface.
  const size_t instructions = meta.num_instructions();
#pragma GCC diagnostic pop
  if (instructions == 1 && meta.uses_backend(kBackend)) {
    return GW_OK;
  }
  return fail(GW_UNDELEGATED, std::to_string(instructions) + " instructions instead of one call of the delegate");
}

size_t element_bytes(int32_t dtype) {
  return dtype == GW_FLOAT32 ? sizeof(float) : 1;
}

}  // namespace

// --- A network --------------------------------------------------------------------------------------------------------

// The members are in the order in which each needs those before it.
struct gw_network {
  gw_description description{};
  std::optional<FileDataLoader> loader;
  std::optional<Program> program;
  MallocMemoryAllocator method_memory;
  MallocMemoryAllocator scratch_memory;
  MallocMemoryAllocator arena_memory;
  std::vector<Span<uint8_t>> arenas;
  std::optional<HierarchicalAllocator> planned_memory;
  std::optional<MemoryManager> memory;
  std::vector<uint8_t> own_input;
  std::vector<uint8_t> own_output;
  std::optional<Method> method;
  void* input = nullptr;
  const void* output = nullptr;
  bool holds_pool = false;

  ~gw_network() {
    method.reset();
    if (holds_pool) {
      release_pool();
    }
  }

  int32_t open(const char* path, int32_t threads);
  int32_t load_program(const char* path);
  int32_t load_method(const MethodMeta& meta);
  int32_t bind_input(const TensorInfo& info);
  int32_t bind_output(const TensorInfo& info);
};

int32_t gw_network::load_program(const char* path) {
  auto opened = FileDataLoader::from(path);
  if (!opened.ok()) {
    return code(opened.error());
  }
  loader.emplace(std::move(opened.get()));
  auto loaded = Program::load(&*loader, Program::Verification::InternalConsistency);
  if (!loaded.ok()) {
    return code(loaded.error());
  }
  program.emplace(std::move(loaded.get()));
  return GW_OK;
}

int32_t gw_network::load_method(const MethodMeta& meta) {
  for (size_t i = 0; i < meta.num_memory_planned_buffers(); ++i) {
    const auto bytes = meta.memory_planned_buffer_size(i);
    if (!bytes.ok()) {
      return code(bytes.error());
    }
    if (bytes.get() < 0 || bytes.get() > kMaxArenaBytes) {
      return fail(code(Error::InvalidProgram), "plans " + std::to_string(bytes.get()) + " bytes of memory");
    }
    const auto size = static_cast<size_t>(bytes.get());
    auto* arena = static_cast<uint8_t*>(arena_memory.allocate(size + kReadBeyondEnd));
    if (arena == nullptr) {
      return GW_OUT_OF_MEMORY;
    }
    arenas.emplace_back(arena, size);
  }
  planned_memory.emplace(Span<Span<uint8_t>>(arenas.data(), arenas.size()));
  memory.emplace(&method_memory, &*planned_memory, &scratch_memory);
  auto loaded = program->load_method(kMethod, &*memory);
  if (!loaded.ok()) {
    return loaded.error() == Error::OperatorMissing ? GW_UNDELEGATED : code(loaded.error());
  }
  method.emplace(std::move(loaded.get()));
  return GW_OK;
}

// Finds the memory that the network reads its input from, so that every run writes straight into it.
int32_t gw_network::bind_input(const TensorInfo& info) {
  own_input.resize(info.nbytes() + kReadBeyondEnd);
  std::vector<executorch::aten::SizesType> sizes(info.sizes().begin(), info.sizes().end());
  std::vector<executorch::aten::DimOrderType> order(info.dim_order().begin(), info.dim_order().end());
  TensorImpl first(info.scalar_type(), static_cast<ssize_t>(sizes.size()), sizes.data(), own_input.data(), order.data());
  const Error set = method->set_input(EValue(Tensor(&first)), 0);
  if (set != Error::Ok) {
    return code(set);
  }
  EValue bound;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  // set_input would copy each image into the planned memory; the address of that memory has no other accessor.
  const Error got = method->get_inputs(&bound, 1);
#pragma GCC diagnostic pop
  if (got != Error::Ok) {
    return code(got);
  }
  input = bound.toTensor().mutable_data_ptr();
  if (input != own_input.data()) {
    own_input = {};
  }
  return GW_OK;
}

int32_t gw_network::bind_output(const TensorInfo& info) {
  if (!info.is_memory_planned()) {
    own_output.resize(info.nbytes() + kReadBeyondEnd);
    const Error set = method->set_output_data_ptr(own_output.data(), info.nbytes(), 0);
    if (set != Error::Ok) {
      return code(set);
    }
  }
  output = method->get_output(0).toTensor().const_data_ptr();
  return GW_OK;
}

int32_t gw_network::open(const char* path, int32_t threads) {
  if (const int32_t status = load_program(path); status != GW_OK) {
    return status;
  }
  const auto meta = program->method_meta(kMethod);
  if (!meta.ok()) {
    return code(meta.error());
  }
  if (const int32_t status = read_signature(meta.get(), &description); status != GW_OK) {
    return status;
  }
  if (const int32_t status = acquire_pool(threads); status != GW_OK) {
    return status;
  }
  holds_pool = true;
  description.threads = threads;
  if (const int32_t status = load_method(meta.get()); status != GW_OK) {
    return status;
  }
  if (const int32_t status = check_delegation(meta.get()); status != GW_OK) {
    return status;
  }
  if (const int32_t status = bind_input(meta->input_tensor_meta(0).get()); status != GW_OK) {
    return status;
  }
  return bind_output(meta->output_tensor_meta(0).get());
}

// --- The interface ----------------------------------------------------------------------------------------------------

extern "C" {

__attribute__((visibility("default"))) int32_t gw_abi_version(void) {
  return GW_ABI_VERSION;
}

__attribute__((visibility("default"))) const char* gw_executorch_version(void) {
  return GW_EXECUTORCH_VERSION;
}

__attribute__((visibility("default"))) const char* gw_status_name(int32_t status) {
  switch (status) {
    case GW_UNDELEGATED:
      return "Undelegated";
    case GW_SIGNATURE:
      return "Signature";
    case GW_THREADS_BUSY:
      return "ThreadsBusy";
    case GW_NO_THREAD_POOL:
      return "NoThreadPool";
    case GW_OUT_OF_MEMORY:
      return "OutOfMemory";
    case GW_UNEXPECTED:
      return "Unexpected";
    default:
      // to_string gives "Error::Name".
      return executorch::runtime::to_string(static_cast<Error>(status)) + sizeof("Error::") - 1;
  }
}

__attribute__((visibility("default"))) int32_t gw_open(const char* path, int32_t threads, gw_network** network, char* message) {
  *network = nullptr;
  try {
    initialise_once();
    last_message.clear();
    auto opened = std::make_unique<gw_network>();
    const int32_t status = opened->open(path, threads);
    if (status == GW_OK) {
      *network = opened.release();
    }
    return report(status, message);
  } catch (const std::bad_alloc&) {
    return report(GW_OUT_OF_MEMORY, message);
  } catch (...) {
    return report(GW_UNEXPECTED, message);
  }
}

__attribute__((visibility("default"))) void gw_describe(const gw_network* network, gw_description* description) {
  *description = network->description;
}

__attribute__((visibility("default"))) int32_t gw_run(
    gw_network* network,
    const uint8_t* pixels,
    void* scores,
    char* message) {
  try {
    last_message.clear();
    const gw_tensor& output = network->description.output;
    write_input(network->description, pixels, network->input);
    const Error error = network->method->execute();
    if (error == Error::Ok) {
      std::memcpy(scores, network->output, static_cast<size_t>(output.shape[1]) * element_bytes(output.dtype));
    }
    return report(code(error), message);
  } catch (const std::bad_alloc&) {
    return report(GW_OUT_OF_MEMORY, message);
  } catch (...) {
    return report(GW_UNEXPECTED, message);
  }
}

__attribute__((visibility("default"))) void gw_close(gw_network* network) {
  delete network;
}

}  // extern "C"
