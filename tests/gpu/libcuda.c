/* A stand-in for libcuda.so.1: it has the GPUs whose device files it finds, and memory that is the process's own.
 *
 * A GPU's UUID is that which tests/nvml gives to the GPU with the same minor number in the same slot. Like the real one
 * it needs the control files, and a library of the driver that it looks for by name.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

enum { OK, INVALID_VALUE, NO_DEVICE = 100, INVALID_DEVICE = 101, NO_JIT = 221, UNKNOWN = 999 };
typedef struct { unsigned char bytes[16]; } uuid;

static int found[64], count = -1;

static int is_node(const char *path, int number)
{
    struct stat status;
    return !stat(path, &status) && S_ISCHR(status.st_mode) && (number < 0 || (int)minor(status.st_rdev) == number);
}

int cuInit(unsigned flags)
{
    char path[64];
    if (flags) return INVALID_VALUE;
    if (!is_node("/dev/nvidiactl", 255) || !is_node("/dev/nvidia-uvm", 0)) return UNKNOWN;
    if (!dlopen("libnvidia-ptxjitcompiler.so.1", RTLD_NOW)) return NO_JIT;
    count = 0;
    for (int number = 0; number < 64; number++) {
        snprintf(path, sizeof path, "/dev/nvidia%d", number);
        if (is_node(path, number)) found[count++] = number;
    }
    return count ? OK : NO_DEVICE;
}

int cuDriverGetVersion(int *version) { *version = 12080; return OK; }
int cuDeviceGetCount(int *number) { *number = count; return count < 0 ? UNKNOWN : OK; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < count ? OK : INVALID_DEVICE; }

int cuDeviceGetName(char *name, int size, int device)
{
    (void)device;
    snprintf(name, size, "NVIDIA stand-in");
    return OK;
}

int cuDeviceGetUuid_v2(uuid *result, int device)
{
    int number = found[device];
    unsigned char bytes[16] = {0, 0, 0, number, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, number};
    memcpy(result->bytes, bytes, 16);
    return OK;
}

int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &found[device]; return OK; }
int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return OK; }
int cuCtxSetCurrent(void *context) { (void)context; return OK; }
int cuMemAlloc_v2(unsigned long long *pointer, size_t size)
{
    *pointer = (unsigned long long)calloc(1, size);
    return *pointer ? OK : 2;
}
int cuMemFree_v2(unsigned long long pointer) { free((void *)pointer); return OK; }
int cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t size) { memcpy((void *)to, from, size); return OK; }
int cuMemcpyDtoH_v2(void *to, unsigned long long from, size_t size) { memcpy(to, (void *)from, size); return OK; }
