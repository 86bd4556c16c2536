/* A stand-in for nvidia-smi -L, and a program that knows no directories: everything is found by its name. */
#include <dlfcn.h>
#include <stdio.h>

int main(void)
{
    void *cuda = dlopen("libcuda.so.1", RTLD_NOW);
    unsigned char u[16];
    char name[96];
    int count = 0;
    if (!cuda) return fprintf(stderr, "%s\n", dlerror()), 9;
    if (dlopen("libcuda.so", RTLD_NOW) != cuda) return fprintf(stderr, "libcuda.so is another library\n"), 9;
    if (!dlopen("libnvidia-ml.so.1", RTLD_NOW)) return fprintf(stderr, "%s\n", dlerror()), 9;
    int (*init)(unsigned) = (int (*)(unsigned))dlsym(cuda, "cuInit");
    int (*devices)(int *) = (int (*)(int *))dlsym(cuda, "cuDeviceGetCount");
    int (*name_of)(char *, int, int) = (int (*)(char *, int, int))dlsym(cuda, "cuDeviceGetName");
    int (*uuid_of)(void *, int) = (int (*)(void *, int))dlsym(cuda, "cuDeviceGetUuid_v2");
    int code = init(0);
    if (code) return fprintf(stderr, "No devices were found (%d)\n", code), 6;
    devices(&count);
    for (int i = 0; i < count; i++) {
        name_of(name, sizeof name, i);
        uuid_of(u, i);
        printf("GPU %d: %s (UUID: GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x)\n", i, name,
               u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
    }
    return 0;
}
