/* A CUDA driver that does nothing but say what it was asked: libcuda.so.1 for a test of the bindings' way to it. What is
   not written out here succeeds. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef int Result;
typedef unsigned long long Address;

Result generic(void) { return 0; }

Result launch(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
              void *stream, void **args, void **extra) {
    setvbuf(stdout, 0, _IOLBF, 0);
    printf("launch %p %u %u %u %u %u %u %u %p %d: %lld %g %llx\n", f, gx, gy, gz, bx, by, bz, shared, stream,
           extra == 0, *(long long *)args[0], *(double *)args[1], *(Address *)args[2]);
    return 0;
}
Result allocate(Address *out, size_t n, void *stream) {
    printf("allocate %zu %p\n", n, stream);
    *out = 0x7f0000000000ull;
    return n > 1 << 20 ? 2 : 0; /* CUDA_ERROR_OUT_OF_MEMORY */
}
Result release(Address a, void *stream) { return printf("release %llx %p\n", a, stream) < 0; }
Result to_device(Address a, const float *from, size_t n, void *stream) {
    return printf("to device %llx %zu %p %g\n", a, n, stream, *from) < 0;
}
Result to_host(float *to, Address a, size_t n, void *stream) {
    *to = 3;
    return printf("to host %llx %zu %p\n", a, n, stream) < 0;
}
Result synchronize(void *stream) { return printf("synchronize %p\n", stream) < 0; }
Result capturing(void *stream, int *out) {
    *out = stream == (void *)7;
    return 0;
}
Result attribute(int *out, int which, Address a) {
    *out = 3;
    return printf("attribute %d %llx\n", which, a) < 0;
}
Result event(void **out, unsigned flags) {
    *out = (void *)0x55;
    return printf("event %u\n", flags) < 0;
}
Result record(void *e, void *stream) { return printf("record %p %p\n", e, stream) < 0; }
Result wait_for(void *stream, void *e, unsigned flags) { return printf("wait %p %p %u\n", stream, e, flags) < 0; }
Result destroy(void *e) { return printf("destroy %p\n", e) < 0; }
Result occupancy(int *out, void *f, int block, size_t shared) {
    *out = 7;
    return printf("occupancy %p %d %zu\n", f, block, shared) < 0;
}

static const struct { const char *name; void *function; } table[] = {
    {"cuLaunchKernel", launch}, {"cuMemAllocAsync", allocate}, {"cuMemFreeAsync", release},
    {"cuMemcpyHtoDAsync", to_device}, {"cuMemcpyDtoHAsync", to_host}, {"cuStreamSynchronize", synchronize},
    {"cuStreamIsCapturing", capturing}, {"cuPointerGetAttribute", attribute}, {"cuEventCreate", event},
    {"cuEventRecord", record}, {"cuStreamWaitEvent", wait_for}, {"cuEventDestroy", destroy},
    {"cuOccupancyMaxActiveBlocksPerMultiprocessor", occupancy},
};

Result cuGetProcAddress_v2(const char *name, void **out, int version, uint64_t flags, int *status) {
    if (status) *status = 0;
    *out = strncmp(name, "cuGetProcAddress", 16) ? (void *)generic : (void *)cuGetProcAddress_v2;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!strcmp(name, table[i].name)) *out = table[i].function;
    return 0;
}
Result cuInit(unsigned flags) { return 0; }
Result cuDriverGetVersion(int *out) {
    *out = 12090;
    return 0;
}
