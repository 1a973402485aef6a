// Marks what host and device code both call.
// Thread-safety: a macro.  Source: ours.
#ifndef DUNLIN_KERNELS_HOST_DEVICE_H_
#define DUNLIN_KERNELS_HOST_DEVICE_H_

#if defined(__CUDACC__)
#define DUNLIN_HOST_DEVICE __host__ __device__
#else
#define DUNLIN_HOST_DEVICE
#endif

#endif  // DUNLIN_KERNELS_HOST_DEVICE_H_
