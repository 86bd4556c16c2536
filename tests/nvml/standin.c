/* A stand-in for libnvidia-ml.so.1: the part of NVML's ABI that the driver uses, told what to be by a file.
 *
 * The file is "standin/world" beside the library: one "key<TAB>value" a line, read anew whenever it has changed, and written
 * under a lock where a call changes something, so that GPU instances outlive the process that made them, as on a GPU.
 * See standin.py for the keys. Every entry point runs ENTER first: the delays, errors and the session are decided there.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { OK, UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND = 6, INSUFFICIENT_SIZE,
       DRIVER_NOT_LOADED = 9, TIMEOUT, GPU_IS_LOST = 15, IN_USE = 19, INSUFFICIENT_RESOURCES = 23,
       VERSION_MISMATCH = 25 };
enum { NO_GPUS = 1 };
enum { GPUS = 32, GIS = 64, CIS = 8, LINES = 4096, LINE = 512, PROFILES = 18, CI_PROFILES = 9, SETS = 256 };
typedef unsigned int u32;
typedef unsigned long long u64;
typedef struct { char key[96], value[LINE - 96]; } entry;
typedef struct { u32 version, value; } versioned;
typedef struct { char legacy[16]; u32 domain, bus, device, id, subsystem; char bus_id[32]; } pci_info;
typedef struct { u32 id, p2p, slices, instances, sm, ce, dec, enc, jpg, ofa; u64 mib; } gi_profile;
typedef struct { u32 version, id, p2p, slices, instances, sm, ce, dec, enc, jpg, ofa; u64 mib; char name[96]; } gi_profile_v2;
typedef struct { u32 id, slices, instances, sm, ce, dec, enc, jpg, ofa; } ci_profile;
typedef struct { u32 version, id, slices, instances, sm, ce, dec, enc, jpg, ofa; char name[96]; } ci_profile_v2;
typedef struct { u32 start, size; } placement;
typedef struct { void *device; u32 id, profile; placement at; } gi_info;
typedef struct { void *device, *gi; u32 id, profile; placement at; } ci_info;
typedef struct { void *device; u64 type, data; u32 gi, ci; } event_data;
typedef struct { u32 pid; u64 memory; u32 gi, ci; } process;
typedef struct { u32 pid; u64 at; u32 sm, memory, encoder, decoder; } sample;
typedef struct { u32 field, scope; int64_t time, latency; u32 type, result; u64 value; } field_value;
typedef struct { unsigned char cluster[16]; u32 status, clique; unsigned char state; } fabric;
typedef struct { u32 version; unsigned char cluster[16]; u32 status, clique; unsigned char state; u32 health; } fabric_v2;
typedef struct { u32 sm, ce, dec, enc, jpg, ofa, gi_slices, ci_slices; u64 mib; } attributes;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char place[PATH_MAX + 16], lock_path[PATH_MAX + 32], hanging_path[PATH_MAX + 32];
static entry world[LINES];
static int lines, initialised, generation;
static u32 count_at_init;
static struct stat seen;
static struct { char symbol[96]; long calls; } counters[512];
/* Handles are addresses in these; nothing is stored there. */
static char gpus[GPUS], gis[GPUS][GIS], cis[GPUS][GIS][CIS], migs[GPUS][GIS][CIS], event_sets[SETS];
static struct { int used; long cursor; u64 wanted[GPUS]; } sets[SETS];

__attribute__((constructor)) static void find_world(void)
{
    Dl_info info;
    char real[PATH_MAX];
    if (!dladdr((void *)find_world, &info) || !realpath(info.dli_fname, real)) abort();
    char *slash = strrchr(real, '/');
    snprintf(place, sizeof place, "%.*s/standin/world", (int)(slash - real), real);
    snprintf(lock_path, sizeof lock_path, "%s.lock", place);
    snprintf(hanging_path, sizeof hanging_path, "%s.hanging", place);
}

static void parse(FILE *file)
{
    char line[LINE];
    lines = 0;
    while (lines < LINES && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *tab = strchr(line, '\t');
        if (!tab) continue;
        *tab = 0;
        snprintf(world[lines].key, sizeof world[0].key, "%s", line);
        snprintf(world[lines++].value, sizeof world[0].value, "%s", tab + 1);
    }
}

static void refresh(int always)
{
    struct stat now;
    if (stat(place, &now)) { lines = 0; return; }
    if (!always && now.st_ino == seen.st_ino && now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec &&
        now.st_mtim.tv_sec == seen.st_mtim.tv_sec && now.st_size == seen.st_size) return;
    FILE *file = fopen(place, "r");
    if (!file) return;
    fstat(fileno(file), &seen);
    parse(file);
    fclose(file);
}

static entry *find(const char *key)
{
    for (int i = 0; i < lines; i++) if (!strcmp(world[i].key, key)) return &world[i];
    return NULL;
}

__attribute__((format(printf, 1, 2))) static const char *get(const char *format, ...)
{
    char key[96];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(key, sizeof key, format, arguments);
    va_end(arguments);
    entry *found = find(key);
    return found ? found->value : NULL;
}

static long number(const char *text, long otherwise) { return text ? strtol(text, NULL, 0) : otherwise; }
#define GPU(n, name) get("gpu.%d." name, n)

static void put(const char *value, const char *format, ...)
{
    char key[96];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(key, sizeof key, format, arguments);
    va_end(arguments);
    entry *found = find(key);
    if (!value) { if (found) *found = world[--lines]; return; }
    if (!found && lines < LINES) found = &world[lines++];
    if (!found) return;
    snprintf(found->key, sizeof found->key, "%s", key);
    snprintf(found->value, sizeof found->value, "%s", value);
}

static int lock(void)
{
    int descriptor = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (descriptor >= 0) flock(descriptor, LOCK_EX);
    refresh(1);
    return descriptor;
}

static int unlock(int descriptor, int result)
{
    char temporary[PATH_MAX + 32];
    if (result == OK) {
        snprintf(temporary, sizeof temporary, "%s.new", place);
        FILE *file = fopen(temporary, "w");
        for (int i = 0; file && i < lines; i++) fprintf(file, "%s\t%s\n", world[i].key, world[i].value);
        if (file && !fclose(file)) rename(temporary, place);
    }
    close(descriptor);
    refresh(1);
    return result;
}

static u32 gpu_count(void)
{
    u32 count = 0;
    while (count < GPUS && GPU((int)count, "uuid")) count++;
    return count;
}

static int index_of(const void *handle, const void *base, size_t size)
{
    uintptr_t at = (uintptr_t)handle, from = (uintptr_t)base;
    return at >= from && at < from + size ? (int)(at - from) : -1;
}

static int gpu_of(const void *handle)
{
    int at = index_of(handle, gpus, sizeof gpus);
    if (at >= 0) return at;
    if ((at = index_of(handle, gis, sizeof gis)) >= 0) return at / GIS;
    if ((at = index_of(handle, cis, sizeof cis)) >= 0) return at / GIS / CIS;
    if ((at = index_of(handle, migs, sizeof migs)) >= 0) return at / GIS / CIS;
    return -1;
}

static int mig_of(const void *handle, int *gi, int *ci)
{
    int at = index_of(handle, migs, sizeof migs);
    if (at < 0) return 0;
    *gi = at / CIS % GIS;
    *ci = at % CIS;
    return 1;
}

static void sleep_ms(long milliseconds)
{
    struct timespec pause = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

static long calls_of(const char *symbol)
{
    for (int i = 0; i < 512; i++) {
        if (!*counters[i].symbol) snprintf(counters[i].symbol, sizeof counters[i].symbol, "%s", symbol);
        if (!strcmp(counters[i].symbol, symbol)) return ++counters[i].calls;
    }
    return 0;
}

/* "code", "code:from" or "code:from:to", in calls of this process counted from 1. */
static int failure(const char *rule, long call)
{
    long code, from = 1, to = LONG_MAX;
    if (!rule || sscanf(rule, "%ld:%ld:%ld", &code, &from, &to) < 1) return OK;
    return call >= from && call <= to ? (int)code : OK;
}

/* Called with the mutex held. `handle` NULL: the call is about no GPU. */
static int enter(const char *symbol, const void *handle, int needs_session)
{
    refresh(0);
    long call = calls_of(symbol);
    for (long slept = 0; slept < number(get("delay.%s", symbol), 0); slept += 10) {
        if (!slept) close(open(hanging_path, O_CREAT | O_WRONLY | O_CLOEXEC, 0666));
        pthread_mutex_unlock(&mutex);
        sleep_ms(10);
        pthread_mutex_lock(&mutex);
        refresh(0);  /* who takes the delay away lets the call go on */
    }
    int code = failure(get("fail.%s", symbol), call);
    if (code != OK) return code;
    if (needs_session) {
        if (!initialised) return UNINITIALIZED;
        if (!number(get("loaded"), 1)) return DRIVER_NOT_LOADED;
        if (number(get("generation"), 0) != generation) return (int)number(get("stale"), UNINITIALIZED);
    }
    if (handle) {
        int gpu = gpu_of(handle);
        if (gpu < 0 || !GPU(gpu, "uuid")) return INVALID_ARGUMENT;
        if ((code = failure(get("fail.%s.%d", symbol, gpu), call)) != OK) return code;
        if (number(GPU(gpu, "lost"), 0)) return GPU_IS_LOST;
    }
    return OK;
}

#define API __attribute__((visibility("default"))) int
/* Each entry point: symbol, parameters, arguments, the GPU that it is about (or NULL), and its body. */
#define ENTRY(symbol, parameters, arguments, handle, ...)                                \
    static int symbol##_body parameters __VA_ARGS__                                     \
    API symbol parameters                                                               \
    {                                                                                   \
        pthread_mutex_lock(&mutex);                                                     \
        int result = enter(#symbol, handle, 1);                                         \
        if (result == OK) result = symbol##_body arguments;                             \
        pthread_mutex_unlock(&mutex);                                                   \
        return result;                                                                  \
    }

static int text(const char *value, char *buffer, u32 size)
{
    if (!value) return NOT_SUPPORTED;
    if (strlen(value) >= size) return INSUFFICIENT_SIZE;
    strcpy(buffer, value);
    return OK;
}

static int integer(const char *value, u32 *result)
{
    if (!value) return NOT_SUPPORTED;
    *result = (u32)strtoul(value, NULL, 0);
    return OK;
}

/* ---------------------------------------------------------------- the library itself */

static int start(const char *symbol, u32 flags)
{
    pthread_mutex_lock(&mutex);
    int result = enter(symbol, NULL, 0);
    if (result == OK && !number(get("loaded"), 1)) result = DRIVER_NOT_LOADED;
    if (result == OK && !gpu_count() && !(flags & NO_GPUS)) result = (int)number(get("without_gpus"), OK);
    if (result == OK) result = (int)number(get("init"), OK);
    if (result == OK && !initialised++) {
        generation = (int)number(get("generation"), 0);
        count_at_init = gpu_count();
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

API nvmlInitWithFlags(u32 flags) { return start("nvmlInitWithFlags", flags); }
API nvmlInit_v2(void) { return start("nvmlInit_v2", 0); }
API nvmlInit(void) { return start("nvmlInit", 0); }

API nvmlShutdown(void)
{
    pthread_mutex_lock(&mutex);
    int result = enter("nvmlShutdown", NULL, 0);
    if (result == OK) result = initialised ? (initialised--, OK) : UNINITIALIZED;
    pthread_mutex_unlock(&mutex);
    return result;
}

__attribute__((visibility("default"))) const char *nvmlErrorString(int code)
{
    static __thread char buffer[32];
    snprintf(buffer, sizeof buffer, "NVML error %d", code);
    return buffer;
}

ENTRY(nvmlSystemGetDriverVersion, (char *version, u32 size), (version, size), NULL, { return text(get("driver"), version, size); })
ENTRY(nvmlSystemGetNVMLVersion, (char *version, u32 size), (version, size), NULL, { return text(get("driver"), version, size); })
ENTRY(nvmlSystemGetCudaDriverVersion, (u32 *version), (version), NULL, { return integer(get("cuda"), version); })
ENTRY(nvmlSystemGetCudaDriverVersion_v2, (u32 *version), (version), NULL, { return integer(get("cuda"), version); })
ENTRY(nvmlDeviceGetCount_v2, (u32 *count), (count), NULL, { *count = count_at_init; return OK; })
ENTRY(nvmlDeviceGetCount, (u32 *count), (count), NULL, { *count = count_at_init; return OK; })

static int by_index(const char *symbol, u32 index, void **device)
{
    if (index >= count_at_init) return INVALID_ARGUMENT;
    int code = failure(get("fail.%s.%u", symbol, index), 1);
    if (code != OK) return code;
    if (number(GPU((int)index, "lost"), 0)) return GPU_IS_LOST;
    *device = &gpus[index];
    return OK;
}

ENTRY(nvmlDeviceGetHandleByIndex_v2, (u32 index, void **device), (index, device), NULL,
      { return by_index("nvmlDeviceGetHandleByIndex_v2", index, device); })
ENTRY(nvmlDeviceGetHandleByIndex, (u32 index, void **device), (index, device), NULL,
      { return by_index("nvmlDeviceGetHandleByIndex", index, device); })

static int ci_uuid(int gpu, int gi, int ci, char *buffer, size_t size);

ENTRY(nvmlDeviceGetHandleByUUID, (const char *uuid, void **device), (uuid, device), NULL, {
    char mine[64];
    for (u32 i = 0; i < count_at_init; i++) {
        /* "if any GPU has fallen off the bus", says the header: whichever it meets on its way */
        if (number(GPU((int)i, "lost"), 0)) return GPU_IS_LOST;
        if (!strcmp(GPU((int)i, "uuid"), uuid)) return by_index("nvmlDeviceGetHandleByUUID", i, device);
        for (int gi = 0; gi < GIS; gi++) for (int ci = 0; ci < CIS; ci++)
            if (ci_uuid((int)i, gi, ci, mine, sizeof mine) && !strcmp(mine, uuid)) return *device = &migs[i][gi][ci], OK;
    }
    return NOT_FOUND;
})

static int by_bus(const char *bus, void **device)
{
    for (u32 i = 0; i < count_at_init; i++) {
        const char *mine = GPU((int)i, "bus");
        size_t tail = mine ? strlen(mine) : 0, length = strlen(bus);
        if (tail && length >= tail && !strcasecmp(mine, bus + length - tail)) return by_index("nvmlDeviceGetHandleByPciBusId_v2", i, device);
    }
    return NOT_FOUND;
}
ENTRY(nvmlDeviceGetHandleByPciBusId_v2, (const char *bus, void **device), (bus, device), NULL, { return by_bus(bus, device); })

/* ---------------------------------------------------------------- how a GPU is cut */

typedef struct { u32 id, slices, size, starts, max, sm, ce, dec, enc, jpg, ofa; u64 mib; char name[64]; } profile;

/* "gpu.N.profile.E": id slices size starts-as-bits max mib sm ce dec enc jpg ofa name */
static int profile_of(int gpu, u32 number_, profile *p)
{
    const char *value = get("gpu.%d.profile.%u", gpu, number_);
    if (!value) return 0;
    return sscanf(value, "%u %u %u %u %u %llu %u %u %u %u %u %u %63[^\n]", &p->id, &p->slices, &p->size, &p->starts, &p->max,
                  &p->mib, &p->sm, &p->ce, &p->dec, &p->enc, &p->jpg, &p->ofa, p->name) == 13;
}
static int profile_by_id(int gpu, u32 id, profile *p)
{
    for (u32 i = 0; i < PROFILES; i++) if (profile_of(gpu, i, p) && p->id == id) return 1;
    return 0;
}
/* "gpu.N.gi.G" is "profile-id start"; "gpu.N.ci.G.C" is "compute-profile slices". */
static int gi_at(int gpu, int gi, u32 *id, u32 *start_)
{
    const char *value = get("gpu.%d.gi.%d", gpu, gi);
    return value && sscanf(value, "%u %u", id, start_) == 2;
}
static int mig_on(int gpu) { return number(GPU(gpu, "mig"), 0) == 1; }

/* ---------------------------------------------------------------- one GPU */

ENTRY(nvmlDeviceGetUUID, (void *device, char *uuid, u32 size), (device, uuid, size), device, {
    int gi, ci;
    char mine[64];
    if (mig_of(device, &gi, &ci)) return ci_uuid(gpu_of(device), gi, ci, mine, sizeof mine) ? text(mine, uuid, size) : NOT_FOUND;
    return text(GPU(gpu_of(device), "uuid"), uuid, size);
})
ENTRY(nvmlDeviceGetName, (void *device, char *name, u32 size), (device, name, size), device,
      { return text(GPU(gpu_of(device), "name"), name, size); })
ENTRY(nvmlDeviceGetSerial, (void *device, char *serial, u32 size), (device, serial, size), device,
      { return text(GPU(gpu_of(device), "serial"), serial, size); })
ENTRY(nvmlDeviceGetBrand, (void *device, u32 *brand), (device, brand), device, { return integer(GPU(gpu_of(device), "brand"), brand); })
ENTRY(nvmlDeviceGetArchitecture, (void *device, u32 *value), (device, value), device, { return integer(GPU(gpu_of(device), "arch"), value); })
ENTRY(nvmlDeviceGetMinorNumber, (void *device, u32 *value), (device, value), device, { return integer(GPU(gpu_of(device), "minor"), value); })
ENTRY(nvmlDeviceGetIndex, (void *device, u32 *value), (device, value), device, { *value = (u32)gpu_of(device); return OK; })
ENTRY(nvmlDeviceGetNumaNodeId, (void *device, u32 *value), (device, value), device, { return integer(GPU(gpu_of(device), "numa"), value); })
ENTRY(nvmlDeviceGetTemperature, (void *device, u32 sensor, u32 *value), (device, sensor, value), device,
      { *value = (u32)number(GPU(gpu_of(device), "temperature"), 40); return sensor ? INVALID_ARGUMENT : OK; })
ENTRY(nvmlDeviceGetEnforcedPowerLimit, (void *device, u32 *value), (device, value), device,
      { return integer(GPU(gpu_of(device), "power_limit"), value); })
ENTRY(nvmlDeviceGetPcieReplayCounter, (void *device, u32 *value), (device, value), device,
      { return integer(GPU(gpu_of(device), "replays"), value); })
/* Bits of nvmlClocksEventReasons. */
static int reasons(void *device, u64 *value)
{
    const char *bits = GPU(gpu_of(device), "throttle");
    if (!bits) return NOT_SUPPORTED;
    *value = strtoull(bits, NULL, 0);
    return OK;
}
ENTRY(nvmlDeviceGetCurrentClocksEventReasons, (void *device, u64 *value), (device, value), device, { return reasons(device, value); })
ENTRY(nvmlDeviceGetCurrentClocksThrottleReasons, (void *device, u64 *value), (device, value), device, { return reasons(device, value); })
ENTRY(nvmlDeviceGetUtilizationRates, (void *device, u32 *rates), (device, rates), device, {
    rates[1] = 0;
    return mig_on(gpu_of(device)) ? NOT_SUPPORTED : integer(GPU(gpu_of(device), "utilisation"), rates);
})
ENTRY(nvmlDeviceGetPowerUsage, (void *device, u32 *value), (device, value), device,
      { *value = (u32)number(GPU(gpu_of(device), "power"), 70000); return OK; })
ENTRY(nvmlDeviceGetAddressingMode, (void *device, versioned *mode), (device, mode), device, {
    if (mode->version != (sizeof *mode | 1 << 24)) return VERSION_MISMATCH;
    return integer(GPU(gpu_of(device), "addressing"), &mode->value);
})
ENTRY(nvmlDeviceGetCudaComputeCapability, (void *device, int *major, int *minor), (device, major, minor), device, {
    const char *value = GPU(gpu_of(device), "cc");
    return value && sscanf(value, "%d.%d", major, minor) == 2 ? OK : NOT_SUPPORTED;
})

/* "gpu.N.used" is what is used of "gpu.N.memory", "gpu.N.used.G" of GPU instance G. */
static int memory(void *device, u64 *total, u64 *used)
{
    int gi, ci, gpu = gpu_of(device);
    u32 id, at;
    profile p;
    if (mig_of(device, &gi, &ci)) {
        if (!gi_at(gpu, gi, &id, &at) || !profile_by_id(gpu, id, &p)) return NOT_FOUND;
        *total = p.mib << 20;
        *used = (u64)number(get("gpu.%d.used.%d", gpu, gi), 0);
        return OK;
    }
    const char *value = GPU(gpu, "memory");
    if (!value) return NOT_SUPPORTED;
    *total = strtoull(value, NULL, 0);
    *used = (u64)number(GPU(gpu, "used"), 0);
    return OK;
}
ENTRY(nvmlDeviceGetMemoryInfo, (void *device, u64 *info), (device, info), device,
      { int code = memory(device, info, info + 2); info[1] = info[0] - info[2]; return code; })
ENTRY(nvmlDeviceGetMemoryInfo_v2, (void *device, u32 *info), (device, info), device,
      { return *info != (40 | 2 << 24) ? VERSION_MISMATCH : memory(device, (u64 *)info + 1, (u64 *)info + 4); })
ENTRY(nvmlDeviceGetBAR1MemoryInfo, (void *device, u64 *info), (device, info), device,
      { info[0] = info[1] = 1ULL << 37; info[2] = 0; return gpu_of(device) < 0 ? INVALID_ARGUMENT : OK; })

static int pci(int gpu, const char *bus, pci_info *info)
{
    u32 function;
    (void)gpu;
    if (!bus) return NOT_SUPPORTED;
    memset(info, 0, sizeof *info);
    if (sscanf(bus, "%x:%x:%x.%x", &info->domain, &info->bus, &info->device, &function) != 4) return NOT_SUPPORTED;
    info->id = 0x233010DE;
    snprintf(info->legacy, sizeof info->legacy, "%04X:%02X:%02X.0", info->domain & 0xffff, info->bus & 0xff, info->device & 0xff);
    snprintf(info->bus_id, sizeof info->bus_id, "%08X:%02X:%02X.0", info->domain, info->bus & 0xff, info->device & 0xff);
    return OK;
}
ENTRY(nvmlDeviceGetPciInfo_v3, (void *device, pci_info *info), (device, info), device,
      { return pci(gpu_of(device), GPU(gpu_of(device), "bus"), info); })
ENTRY(nvmlDeviceGetPciInfo_v2, (void *device, pci_info *info), (device, info), device,
      { int code = pci(gpu_of(device), GPU(gpu_of(device), "bus"), info); memset(info->bus_id, 0, sizeof info->bus_id); return code; })

ENTRY(nvmlDeviceGetComputeMode, (void *device, u32 *mode), (device, mode), device,
      { *mode = (u32)number(GPU(gpu_of(device), "compute_mode"), 0); return OK; })
ENTRY(nvmlDeviceSetComputeMode, (void *device, u32 mode), (device, mode), device, {
    char value[16];
    int file = lock();
    snprintf(value, sizeof value, "%u", mode);
    put(value, "gpu.%d.compute_mode", gpu_of(device));
    return unlock(file, OK);
})
ENTRY(nvmlDeviceGetEccMode, (void *device, u32 *now, u32 *later), (device, now, later), device,
      { int code = integer(GPU(gpu_of(device), "ecc"), now); *later = *now; return code; })
ENTRY(nvmlDeviceGetTotalEccErrors, (void *device, u32 type, u32 counter, u64 *value), (device, type, counter, value), device,
      {
    if (number(GPU(gpu_of(device), "without_ecc"), 0)) return NOT_SUPPORTED;
    *value = (u64)number(get("gpu.%d.ecc_errors.%u.%u", gpu_of(device), type, counter), 0);
    return type > 1 || counter > 1 ? INVALID_ARGUMENT : OK;
})
ENTRY(nvmlDeviceGetRemappedRows, (void *device, u32 *corr, u32 *unc, u32 *pending, u32 *failed), (device, corr, unc, pending, failed), device, {
    const char *value = GPU(gpu_of(device), "remapped");
    return value && sscanf(value, "%u %u %u %u", corr, unc, pending, failed) == 4 ? OK : NOT_SUPPORTED;
})
ENTRY(nvmlDeviceGetRetiredPagesPendingStatus, (void *device, u32 *value), (device, value), device,
      { return integer(GPU(gpu_of(device), "retired_pending"), value); })
ENTRY(nvmlDeviceGetFieldValues, (void *device, int count, field_value *values), (device, count, values), device, {
    for (int i = 0; i < count; i++) {
        const char *value = get("gpu.%d.field.%u", gpu_of(device), values[i].field);
        values[i].result = value ? OK : NOT_SUPPORTED;
        values[i].type = 1;
        values[i].value = value ? strtoull(value, NULL, 0) : 0;
    }
    return OK;
})

static void cluster(const char *text, unsigned char *bytes)
{
    for (int i = 0; i < 16 && *text; text++) {
        if (*text == '-') continue;
        u32 byte = 0;
        sscanf(text, "%2x", &byte);
        bytes[i++] = (unsigned char)byte;
        text++;
    }
}
/* "cluster-uuid clique state status" */
static int fabric_of(void *device, unsigned char *uuid, u32 *clique, unsigned char *state, u32 *status)
{
    char id[64];
    u32 now = 3;
    const char *value = GPU(gpu_of(device), "fabric");
    if (!value) return NOT_SUPPORTED;
    *status = 0;
    if (sscanf(value, "%63s %u %u %u", id, clique, &now, status) < 2) return NOT_SUPPORTED;
    *state = (unsigned char)now;
    cluster(id, uuid);
    return OK;
}
ENTRY(nvmlDeviceGetGpuFabricInfo, (void *device, fabric *info), (device, info), device,
      { return fabric_of(device, info->cluster, &info->clique, &info->state, &info->status); })
ENTRY(nvmlDeviceGetGpuFabricInfoV, (void *device, fabric_v2 *info), (device, info), device, {
    if (info->version != (sizeof *info | 2 << 24)) return VERSION_MISMATCH;
    return fabric_of(device, info->cluster, &info->clique, &info->state, &info->status);
})
/* "gpu.N.nvlink.L" is "remote-type bus-id", type 0 a GPU, 2 a switch. */
ENTRY(nvmlDeviceGetNvLinkState, (void *device, u32 link, u32 *active), (device, link, active), device, {
    if (!GPU(gpu_of(device), "nvlink.0")) return NOT_SUPPORTED;
    if (link >= 18) return INVALID_ARGUMENT;
    *active = get("gpu.%d.nvlink.%u", gpu_of(device), link) != NULL;
    return OK;
})
ENTRY(nvmlDeviceGetNvLinkRemoteDeviceType, (void *device, u32 link, u32 *type), (device, link, type), device,
      { return integer(get("gpu.%d.nvlink.%u", gpu_of(device), link), type); })
ENTRY(nvmlDeviceGetNvLinkRemotePciInfo_v2, (void *device, u32 link, pci_info *info), (device, link, info), device, {
    const char *value = get("gpu.%d.nvlink.%u", gpu_of(device), link);
    return value && strchr(value, ' ') ? pci(0, strchr(value, ' ') + 1, info) : NOT_SUPPORTED;
})

/* "gpu.N.processes" lists process ids, "gpu.N.processes.G" those in GPU instance G; each may have its memory after a colon. */
static int processes(void *device, const char *key, u32 *count, process *infos)
{
    int gi, ci, mig = mig_of(device, &gi, &ci);
    const char *value = mig ? get("gpu.%d.%s.%d", gpu_of(device), key, gi) : get("gpu.%d.%s", gpu_of(device), key);
    u32 room = *count, found = 0;
    for (char *end; value && *value; value = end + (*end == ' ')) {
        u32 pid = (u32)strtoul(value, &end, 0);
        u64 used = *end == ':' ? strtoull(end + 1, &end, 0) : 1 << 20;
        if (infos && found < room) infos[found] = (process){pid, used, mig ? (u32)gi : 0xffffffff, mig ? (u32)ci : 0xffffffff};
        found++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : OK;
}
ENTRY(nvmlDeviceGetComputeRunningProcesses_v3, (void *device, u32 *count, process *infos), (device, count, infos), device,
      { return processes(device, "processes", count, infos); })
ENTRY(nvmlDeviceGetComputeRunningProcesses_v2, (void *device, u32 *count, process *infos), (device, count, infos), device,
      { return processes(device, "processes", count, infos); })
ENTRY(nvmlDeviceGetMPSComputeRunningProcesses_v3, (void *device, u32 *count, process *infos), (device, count, infos), device,
      { return processes(device, "mps_processes", count, infos); })
/* "gpu.N.samples" is a list of pid:microseconds:percent; without it processes are not told apart. */
ENTRY(nvmlDeviceGetProcessUtilization, (void *device, sample *samples, u32 *count, u64 since), (device, samples, count, since), device, {
    const char *value = GPU(gpu_of(device), "samples");
    u32 found = 0, room = samples ? *count : 0;
    if (!value || mig_on(gpu_of(device))) return NOT_SUPPORTED;
    for (char *end; *value; value = end + (*end == ' ')) {
        u32 pid = (u32)strtoul(value, &end, 10);
        u64 at = strtoull(end + 1, &end, 10);
        u32 percent = (u32)strtoul(end + 1, &end, 10);
        if (at <= since) continue;
        if (found < room) samples[found] = (sample){pid, at, percent, 0, 0, 0};
        found++;
    }
    *count = found;
    return !found ? NOT_FOUND : found > room ? INSUFFICIENT_SIZE : OK;
})
ENTRY(nvmlDeviceGetGraphicsRunningProcesses_v3, (void *device, u32 *count, process *infos), (device, count, infos), device,
      { (void)device; (void)infos; *count = 0; return OK; })

/* ---------------------------------------------------------------- MIG */

static int ci_uuid(int gpu, int gi, int ci, char *buffer, size_t size)
{
    u32 id, at;
    if (!get("gpu.%d.ci.%d.%d", gpu, gi, ci) || !gi_at(gpu, gi, &id, &at)) return 0;
    snprintf(buffer, size, "MIG-%08x-%04x-5%03x-8000-%012x", gpu, id, at, ci);
    return 1;
}

ENTRY(nvmlDeviceGetMigMode, (void *device, u32 *now, u32 *later), (device, now, later), device, {
    int code = integer(GPU(gpu_of(device), "mig"), now);
    *later = code == OK ? (u32)number(GPU(gpu_of(device), "mig_pending"), *now) : 0;
    return code;
})
/* "gpu.N.mig_status": what activation says instead of OK; the mode is then pending only. */
ENTRY(nvmlDeviceSetMigMode, (void *device, u32 mode, u32 *status), (device, mode, status), device, {
    int gpu = gpu_of(device);
    if (!GPU(gpu, "mig")) return NOT_SUPPORTED;
    int file = lock();
    *status = (u32)number(GPU(gpu, "mig_status"), OK);
    for (int gi = 0; !mode && gi < GIS; gi++) if (get("gpu.%d.gi.%d", gpu, gi)) *status = IN_USE;
    if (*status == OK) { put(mode ? "1" : "0", "gpu.%d.mig", gpu); put(NULL, "gpu.%d.mig_pending", gpu); }
    else if (*status != IN_USE) put(mode ? "1" : "0", "gpu.%d.mig_pending", gpu);
    return unlock(file, OK);
})
ENTRY(nvmlDeviceGetMaxMigDeviceCount, (void *device, u32 *count), (device, count), device, {
    profile p;
    u32 most = 0;
    for (u32 i = 0; i < PROFILES; i++) if (profile_of(gpu_of(device), i, &p) && p.max > most) most = p.max;
    *count = GPU(gpu_of(device), "mig") ? (u32)number(GPU(gpu_of(device), "mig_max"), most) : 0;
    return OK;
})

static int gi_profile_info(void *device, u32 number_, profile *p)
{
    if (number_ >= PROFILES) return INVALID_ARGUMENT;
    if (!GPU(gpu_of(device), "mig") || !profile_of(gpu_of(device), number_, p)) return NOT_SUPPORTED;
    if (number(get("profiles_need_mig"), 0) && !mig_on(gpu_of(device))) return NOT_SUPPORTED;
    return OK;
}
ENTRY(nvmlDeviceGetGpuInstanceProfileInfo, (void *device, u32 number_, gi_profile *info), (device, number_, info), device, {
    profile p;
    int code = gi_profile_info(device, number_, &p);
    if (code == OK) *info = (gi_profile){p.id, 0, p.slices, p.max, p.sm, p.ce, p.dec, p.enc, p.jpg, p.ofa, p.mib};
    return code;
})
ENTRY(nvmlDeviceGetGpuInstanceProfileInfoV, (void *device, u32 number_, gi_profile_v2 *info), (device, number_, info), device, {
    profile p;
    if (info->version != (sizeof *info | 2 << 24)) return VERSION_MISMATCH;
    int code = gi_profile_info(device, number_, &p);
    if (code != OK) return code;
    *info = (gi_profile_v2){info->version, p.id, 0, p.slices, p.max, p.sm, p.ce, p.dec, p.enc, p.jpg, p.ofa, p.mib, ""};
    snprintf(info->name, sizeof info->name, "MIG %s", p.name);
    return OK;
})
ENTRY(nvmlDeviceGetGpuInstancePossiblePlacements_v2, (void *device, u32 id, placement *places, u32 *count), (device, id, places, count), device, {
    profile p;
    u32 found = 0;
    if (!profile_by_id(gpu_of(device), id, &p)) return NOT_SUPPORTED;
    if (!number(get("placements_need_mig"), 0) || mig_on(gpu_of(device)))
        for (u32 at = 0; at < 32; at++) if (p.starts >> at & 1) {
            if (places && found < *count) places[found] = (placement){at, p.size};
            found++;
        }
    int small = places && *count < found;
    *count = found;
    return small ? INSUFFICIENT_SIZE : OK;
})

static u32 slots_taken(int gpu, u32 id, u32 *same)
{
    u32 taken = 0, other, at;
    profile p;
    for (int gi = 0; gi < GIS; gi++) if (gi_at(gpu, gi, &other, &at) && profile_by_id(gpu, other, &p)) {
        taken |= ((1u << p.size) - 1) << at;
        *same += other == id;
    }
    return taken;
}
static int create_gi(int gpu, u32 id, const placement *at, void **instance)
{
    profile p;
    char value[32];
    u32 same = 0;
    if (!mig_on(gpu)) return NOT_SUPPORTED;
    if (!profile_by_id(gpu, id, &p)) return INVALID_ARGUMENT;
    if (at->size != p.size || at->start > 31 || !(p.starts >> at->start & 1)) return INVALID_ARGUMENT;
    if (slots_taken(gpu, id, &same) & (((1u << p.size) - 1) << at->start) || same >= p.max) return INSUFFICIENT_RESOURCES;
    int gi = p.starts == 1 && p.slices > 4 ? 0 : 1;
    while (get("gpu.%d.gi.%d", gpu, gi)) gi++;
    snprintf(value, sizeof value, "%u %u", id, at->start);
    put(value, "gpu.%d.gi.%d", gpu, gi);
    *instance = &gis[gpu][gi];
    return OK;
}
ENTRY(nvmlDeviceCreateGpuInstanceWithPlacement, (void *device, u32 id, const placement *at, void **instance), (device, id, at, instance), device, {
    int file = lock();
    return unlock(file, create_gi(gpu_of(device), id, at, instance));
})
ENTRY(nvmlDeviceGetGpuInstances, (void *device, u32 id, void **instances, u32 *count), (device, id, instances, count), device, {
    int gpu = gpu_of(device);
    u32 mine, at;
    profile p;
    *count = 0;
    if (!mig_on(gpu)) return NOT_SUPPORTED;
    if (!profile_by_id(gpu, id, &p)) return INVALID_ARGUMENT;
    for (int gi = 0; gi < GIS; gi++) if (gi_at(gpu, gi, &mine, &at) && mine == id) instances[(*count)++] = &gis[gpu][gi];
    return OK;
})
ENTRY(nvmlDeviceGetGpuInstanceById, (void *device, u32 gi, void **instance), (device, gi, instance), device, {
    if (gi >= GIS || !get("gpu.%d.gi.%u", gpu_of(device), gi)) return NOT_FOUND;
    *instance = &gis[gpu_of(device)][gi];
    return OK;
})
#define GI(handle) (index_of(handle, gis, sizeof gis) % GIS)
ENTRY(nvmlGpuInstanceGetInfo, (void *instance, gi_info *info), (instance, info), instance, {
    int gpu = gpu_of(instance);
    u32 id, at;
    profile p;
    if (!gi_at(gpu, GI(instance), &id, &at)) return NOT_FOUND;
    *info = (gi_info){&gpus[gpu], (u32)GI(instance), id, {at, profile_by_id(gpu, id, &p) ? p.size : 0}};
    return OK;
})
/* "gpu.N.busy.G": something runs in GPU instance G. */
ENTRY(nvmlGpuInstanceDestroy, (void *instance), (instance), instance, {
    int gpu = gpu_of(instance), gi = GI(instance), code = OK, file = lock();
    if (!get("gpu.%d.gi.%d", gpu, gi)) code = NOT_FOUND;
    for (int ci = 0; ci < CIS; ci++) if (get("gpu.%d.ci.%d.%d", gpu, gi, ci)) code = IN_USE;
    if (code == OK) put(NULL, "gpu.%d.gi.%d", gpu, gi);
    return unlock(file, code);
})

static const u32 CI_SLICES[CI_PROFILES] = {1, 2, 3, 4, 7, 8, 6, 1, 7};
static int ci_profile_info(void *instance, u32 number_, u32 engines, profile *p)
{
    u32 id, at;
    if (number_ >= CI_PROFILES || engines) return INVALID_ARGUMENT;
    if (!gi_at(gpu_of(instance), GI(instance), &id, &at) || !profile_by_id(gpu_of(instance), id, p)) return NOT_FOUND;
    return CI_SLICES[number_] > p->slices || number_ == 8 ? NOT_SUPPORTED : OK;
}
ENTRY(nvmlGpuInstanceGetComputeInstanceProfileInfo, (void *instance, u32 number_, u32 engines, ci_profile *info), (instance, number_, engines, info), instance, {
    profile p;
    int code = ci_profile_info(instance, number_, engines, &p);
    if (code == OK) *info = (ci_profile){number_, CI_SLICES[number_], 1, p.sm, p.ce, p.dec, p.enc, p.jpg, p.ofa};
    return code;
})
ENTRY(nvmlGpuInstanceGetComputeInstanceProfileInfoV, (void *instance, u32 number_, u32 engines, ci_profile_v2 *info), (instance, number_, engines, info), instance, {
    profile p;
    if (info->version != (sizeof *info | 2 << 24)) return VERSION_MISMATCH;
    int code = ci_profile_info(instance, number_, engines, &p);
    if (code == OK) *info = (ci_profile_v2){info->version, number_, CI_SLICES[number_], 1, p.sm, p.ce, p.dec, p.enc, p.jpg, p.ofa, ""};
    return code;
})
ENTRY(nvmlGpuInstanceCreateComputeInstance, (void *instance, u32 number_, void **compute), (instance, number_, compute), instance, {
    profile p;
    char value[32];
    int file = lock(), gpu = gpu_of(instance), gi = GI(instance), ci = 0;
    u32 used = 0;
    int code = ci_profile_info(instance, number_, 0, &p);
    if (code != OK) return unlock(file, code);
    for (int i = 0; i < CIS; i++) {
        const char *other = get("gpu.%d.ci.%d.%d", gpu, gi, i);
        if (other) used += (u32)number(strchr(other, ' '), 0);
    }
    while (get("gpu.%d.ci.%d.%d", gpu, gi, ci)) ci++;
    if (used + CI_SLICES[number_] > p.slices) return unlock(file, INSUFFICIENT_RESOURCES);
    snprintf(value, sizeof value, "%u %u", number_, CI_SLICES[number_]);
    put(value, "gpu.%d.ci.%d.%d", gpu, gi, ci);
    *compute = &cis[gpu][gi][ci];
    return unlock(file, OK);
})
ENTRY(nvmlGpuInstanceGetComputeInstanceById, (void *instance, u32 ci, void **compute), (instance, ci, compute), instance, {
    if (ci >= CIS || !get("gpu.%d.ci.%d.%u", gpu_of(instance), GI(instance), ci)) return NOT_FOUND;
    *compute = &cis[gpu_of(instance)][GI(instance)][ci];
    return OK;
})
ENTRY(nvmlComputeInstanceGetInfo_v2, (void *compute, ci_info *info), (compute, info), compute, {
    int at = index_of(compute, cis, sizeof cis), gpu = gpu_of(compute), gi = at / CIS % GIS, ci = at % CIS;
    const char *value = get("gpu.%d.ci.%d.%d", gpu, gi, ci);
    if (!value) return NOT_FOUND;
    *info = (ci_info){&migs[gpu][gi][ci], &gis[gpu][gi], (u32)ci, (u32)number(value, 0), {0, (u32)number(strchr(value, ' '), 0)}};
    return OK;
})
ENTRY(nvmlComputeInstanceDestroy, (void *compute), (compute), compute, {
    int at = index_of(compute, cis, sizeof cis), gpu = gpu_of(compute), gi = at / CIS % GIS, ci = at % CIS, file = lock();
    int code = !get("gpu.%d.ci.%d.%d", gpu, gi, ci) ? NOT_FOUND : get("gpu.%d.busy.%d", gpu, gi) ? IN_USE : OK;
    if (code == OK) put(NULL, "gpu.%d.ci.%d.%d", gpu, gi, ci);
    return unlock(file, code);
})
ENTRY(nvmlDeviceGetMigDeviceHandleByIndex, (void *device, u32 index, void **mig), (device, index, mig), device, {
    int gpu = gpu_of(device);
    if (!mig_on(gpu)) return NOT_SUPPORTED;
    for (int gi = 0; gi < GIS; gi++) for (int ci = 0; ci < CIS; ci++)
        if (get("gpu.%d.ci.%d.%d", gpu, gi, ci) && !index--) { *mig = &migs[gpu][gi][ci]; return OK; }
    return NOT_FOUND;
})
ENTRY(nvmlDeviceIsMigDeviceHandle, (void *device, u32 *yes), (device, yes), device,
      { int gi, ci; *yes = (u32)mig_of(device, &gi, &ci); return OK; })
ENTRY(nvmlDeviceGetGpuInstanceId, (void *device, u32 *id), (device, id), device,
      { int gi, ci; if (!mig_of(device, &gi, &ci)) return NOT_SUPPORTED; *id = (u32)gi; return OK; })
ENTRY(nvmlDeviceGetComputeInstanceId, (void *device, u32 *id), (device, id), device,
      { int gi, ci; if (!mig_of(device, &gi, &ci)) return NOT_SUPPORTED; *id = (u32)ci; return OK; })
ENTRY(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, (void *mig, void **device), (mig, device), mig,
      { *device = &gpus[gpu_of(mig)]; return OK; })
ENTRY(nvmlDeviceGetAttributes_v2, (void *device, attributes *a), (device, a), device, {
    int gi, ci, gpu = gpu_of(device);
    u32 id, at;
    profile p;
    if (!mig_of(device, &gi, &ci)) return NOT_SUPPORTED;
    const char *value = get("gpu.%d.ci.%d.%d", gpu, gi, ci);
    if (!value || !gi_at(gpu, gi, &id, &at) || !profile_by_id(gpu, id, &p)) return NOT_FOUND;
    *a = (attributes){p.sm, p.ce, p.dec, p.enc, p.jpg, p.ofa, p.slices, (u32)number(strchr(value, ' '), 0), p.mib};
    return OK;
})

/* ---------------------------------------------------------------- counters of performance (GPM) */

typedef struct { int gpu, gi, taken; } gpm_sample;
typedef struct { u32 id, result; double value; char *names[3]; } gpm_metric;
typedef struct { u32 version, count; gpm_sample *before, *after; gpm_metric metrics[]; } gpm_metrics;
/* "gpu.N.gpm" is "graphics sm" in percent, "gpu.N.gpm.G" those of GPU instance G; "gpm.samples" is how many there are. */
ENTRY(nvmlGpmQueryDeviceSupport, (void *device, versioned *support), (device, support), device, {
    if (support->version != 1) return VERSION_MISMATCH;
    support->value = (u32)number(GPU(gpu_of(device), "has_gpm"), 0);
    return OK;
})
static int gpm_count(int more)
{
    char value[16];
    int file = lock();
    snprintf(value, sizeof value, "%ld", number(get("gpm.samples"), 0) + more);
    put(value, "gpm.samples");
    return unlock(file, OK);
}
ENTRY(nvmlGpmSampleAlloc, (gpm_sample **made), (made), NULL, { *made = calloc(1, sizeof **made); return gpm_count(1); })
ENTRY(nvmlGpmSampleFree, (gpm_sample *old), (old), NULL, { free(old); return gpm_count(-1); })
ENTRY(nvmlGpmSampleGet, (void *device, gpm_sample *into), (device, into), device, {
    *into = (gpm_sample){gpu_of(device), -1, 1};
    return mig_on(gpu_of(device)) ? NOT_SUPPORTED : OK;
})
ENTRY(nvmlGpmMigSampleGet, (void *device, u32 gi, gpm_sample *into), (device, gi, into), device, {
    if (!get("gpu.%d.gi.%u", gpu_of(device), gi)) return NOT_FOUND;
    *into = (gpm_sample){gpu_of(device), (int)gi, 1};
    return OK;
})
ENTRY(nvmlGpmMetricsGet, (gpm_metrics *wanted), (wanted), NULL, {
    double values[2];
    gpm_sample *now = wanted->after;
    if (wanted->version != 1 || !now->taken || !wanted->before->taken) return INVALID_ARGUMENT;
    if (now->gpu != wanted->before->gpu || now->gi != wanted->before->gi) return INVALID_ARGUMENT;
    const char *value = now->gi < 0 ? GPU(now->gpu, "gpm") : get("gpu.%d.gpm.%d", now->gpu, now->gi);
    int known = value && sscanf(value, "%lf %lf", values, values + 1) == 2;
    for (u32 i = 0; i < wanted->count; i++) {
        gpm_metric *metric = &wanted->metrics[i];
        metric->result = known && metric->id >= 1 && metric->id <= 2 ? OK : NOT_SUPPORTED;
        metric->value = metric->result == OK ? values[metric->id - 1] : 0;
    }
    return OK;
})

/* ---------------------------------------------------------------- events */

static long newest_event(void) { return number(get("event"), 0); }

ENTRY(nvmlEventSetCreate, (void **set), (set), NULL, {
    for (int i = 0; i < SETS; i++) if (!sets[i].used) {
        memset(&sets[i], 0, sizeof sets[i]);
        sets[i].used = 1;
        sets[i].cursor = newest_event();
        *set = &event_sets[i];
        return OK;
    }
    return INSUFFICIENT_RESOURCES;
})
ENTRY(nvmlDeviceGetSupportedEventTypes, (void *device, u64 *types), (device, types), device,
      { *types = (u64)number(GPU(gpu_of(device), "events"), 0); return OK; })
ENTRY(nvmlDeviceRegisterEvents, (void *device, u64 types, void *set), (device, types, set), device, {
    int at = index_of(set, event_sets, sizeof event_sets);
    if (at < 0 || !sets[at].used) return INVALID_ARGUMENT;
    if (types & ~(u64)number(GPU(gpu_of(device), "events"), 0)) return NOT_SUPPORTED;
    sets[at].wanted[gpu_of(device)] |= types;
    return OK;
})
API nvmlEventSetFree(void *set)
{
    pthread_mutex_lock(&mutex);
    int result = enter("nvmlEventSetFree", NULL, 0), at = index_of(set, event_sets, sizeof event_sets);
    if (result == OK) result = at >= 0 && sets[at].used ? (sets[at].used = 0, OK) : INVALID_ARGUMENT;
    pthread_mutex_unlock(&mutex);
    return result;
}
/* "event.S" is "gpu type data gi ci". */
static int next_event(int set, event_data *data)
{
    u32 gpu, gi, ci;
    u64 type, value;
    while (sets[set].cursor < newest_event()) {
        const char *line = get("event.%ld", ++sets[set].cursor);
        if (!line || sscanf(line, "%u %llu %llu %u %u", &gpu, &type, &value, &gi, &ci) != 5 || gpu >= GPUS) continue;
        if (!(sets[set].wanted[gpu] & type)) continue;
        *data = (event_data){&gpus[gpu], type, value, gi, ci};
        return 1;
    }
    return 0;
}
static int wait_for(const char *symbol, void *set, event_data *data, u32 timeout)
{
    int at = index_of(set, event_sets, sizeof event_sets), result, reported = 0;
    for (u32 waited = 0;; waited += 10) {
        pthread_mutex_lock(&mutex);
        result = waited ? (refresh(0), OK) : enter(symbol, NULL, 1);
        if (result == OK && waited && number(get("generation"), 0) != generation) result = (int)number(get("stale"), UNINITIALIZED);
        if (result == OK && (at < 0 || !sets[at].used)) result = INVALID_ARGUMENT;
        for (int gpu = 0; result == OK && gpu < (int)count_at_init; gpu++)
            if (sets[at].wanted[gpu] && number(GPU(gpu, "lost"), 0)) reported = 1;
        int found = result == OK && next_event(at, data);
        pthread_mutex_unlock(&mutex);
        if (result != OK || found) return result;
        if (reported) return GPU_IS_LOST;
        if (waited >= timeout) return TIMEOUT;
        sleep_ms(10);
    }
}
API nvmlEventSetWait_v2(void *set, event_data *data, u32 timeout) { return wait_for("nvmlEventSetWait_v2", set, data, timeout); }
API nvmlEventSetWait(void *set, event_data *data, u32 timeout) { return wait_for("nvmlEventSetWait", set, data, timeout); }
