// The C interface between device/runtimes/executorch.py and ExecuTorch: open, describe, run, close.
//
// Handles are opaque. No exception crosses the boundary. A handle may be used from any thread, but from one at a time; two
// handles may run at once. The thread pool is ExecuTorch's own: one for the whole process.
#ifndef GHOSTWATT_EXECUTORCH_H_
#define GHOSTWATT_EXECUTORCH_H_

#include <stdint.h>

#define GW_ABI_VERSION 1
#define GW_MAX_RANK 4
#define GW_MESSAGE_BYTES 512

#if defined(__cplusplus)
extern "C" {
#endif

typedef struct gw_network gw_network;

// What went wrong. Statuses below GW_UNDELEGATED are ExecuTorch's own (executorch/runtime/core/error.h).
enum gw_status {
  GW_OK = 0,
  GW_UNDELEGATED = 0x100,   // operators stand outside the one XNNPACK delegate
  GW_SIGNATURE = 0x101,     // not one image in, one row of scores out
  GW_THREADS_BUSY = 0x102,  // another open network uses the pool with another number of threads
  GW_NO_THREAD_POOL = 0x103,
  GW_OUT_OF_MEMORY = 0x104,
  GW_UNEXPECTED = 0x105
};

enum gw_dtype { GW_UINT8 = 0, GW_INT8 = 1, GW_FLOAT32 = 2 };

// A tensor of the network's signature, as the file has it.
typedef struct gw_tensor {
  int32_t dtype;
  int32_t rank;
  int32_t shape[GW_MAX_RANK];
} gw_tensor;

typedef struct gw_description {
  gw_tensor input;
  gw_tensor output;
  int32_t side_px;            // of the square image
  int32_t is_channels_last;   // how the file keeps the input in memory: R G B R G B ..., or plane by plane
  int32_t threads;            // of the pool
} gw_description;

// GW_ABI_VERSION that the library was built with.
int32_t gw_abi_version(void);

// Version of ExecuTorch that the library was built for ("1.5.1"). Static.
const char* gw_executorch_version(void);

// Name of a status ("OperatorMissing"). Static.
const char* gw_status_name(int32_t status);

// Opens a network and loads its method "forward".
//
//   path      a .pte file; it is not needed after the call, and not mapped.
//   threads   for the process's pool; at least 1.
//   network   receives the handle, or NULL.
//   message   GW_MESSAGE_BYTES; receives what ExecuTorch said last, or "".
//
// Returns GW_OK or the status.
int32_t gw_open(const char* path, int32_t threads, gw_network** network, char* message);

// Fills `description`.
void gw_describe(const gw_network* network, gw_description* description);

// Runs the network once.
//
//   pixels    side_px * side_px * 3 bytes: rows of R G B.
//   scores    as many elements as the output has, of its type.
//   message   as in gw_open.
int32_t gw_run(gw_network* network, const uint8_t* pixels, void* scores, char* message);

// Frees the network. NULL is ignored.
void gw_close(gw_network* network);

#if defined(__cplusplus)
}
#endif

#endif  // GHOSTWATT_EXECUTORCH_H_
