/* A simulated NVML: the functions that pynvml calls, for up to eight GPUs that do not exist.
 *
 * Built with the soname libnvidia-ml.so.1, so that pynvml finds it where it looks for the driver's
 * library. The nvml* functions behave as the driver's do; the fake_* functions, which NVML does not
 * have, script them. The structures follow pynvml's ctypes definitions field by field.
 *
 * Powers are in mW and energies in mJ, as in NVML. One mutex guards everything; a call that is
 * scripted to hang waits on a condition variable and so does not hold it. */

#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { MAX_DEVICES = 8, MAX_FUNCTIONS = 64, MAX_PROCESSES = 8, MAX_MIG = 7, TEXT = 96 };
enum { EVERY_DEVICE = -1, MIG_DEVICE = MAX_DEVICES + 1 };

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    VERSION_MISMATCH = 25,
};

enum { FIELD_TOTAL_ENERGY = 83, FIELD_POWER_AVERAGE = 185, FIELD_POWER_INSTANT = 186 };
enum { CLOCK_GRAPHICS = 0, CLOCK_SM = 1, CLOCK_MEMORY = 2 };
enum { TYPE_UNSIGNED_INT = 1, TYPE_UNSIGNED_LONG_LONG = 3 };

#define DRIVER_VERSION "580.95.05"
#define NVML_VERSION "13.580.95.05"
#define NS_PER_S 1000000000ll
#define NS_PER_MS 1000000ll
#define PJ_PER_MJ 1000000000ll /* 1 mW for 1 ns is 1 pJ */
#define MIB (1ull << 20)
#define RESERVED_BYTES (512 * MIB)

typedef struct {
    unsigned gpu, memory;
} Utilization;

typedef struct {
    uint64_t total, free, used;
} Memory;

typedef struct {
    unsigned version;
    uint64_t total, reserved, free, used;
} MemoryV2;

typedef struct {
    unsigned version, sensor;
    int celsius;
} Temperature;

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} PciInfo;

typedef struct {
    unsigned pid;
    uint64_t used_bytes;
    unsigned gpu_instance, compute_instance;
} Process;

typedef struct {
    uint32_t field, scope;
    int64_t timestamp_us, latency_us;
    uint32_t type, code;
    union {
        double d;
        unsigned ui;
        uint64_t ull;
    } value;
} FieldValue;

/* NVML packs size and version of a structure into one number. */
#define MEMORY_V2 (sizeof(MemoryV2) | 2 << 24)
#define TEMPERATURE_V1 (sizeof(Temperature) | 1 << 24)

/* ---- State ---------------------------------------------------------------------------------- */

/* A part of a GPU: its address is a handle too, but few functions take it. */
typedef struct {
    char uuid[TEXT];
} Mig;

typedef struct {
    char name[TEXT];
    int64_t power_mw;
    int64_t average_mw; /* negative: the same as power_mw */
    int64_t module_mw; /* of GPU and CPU, as on Grace Hopper; negative: there is none */
    __int128 energy_pj; /* up to since_ns; an integer, so that nothing is lost by adding up */
    int64_t since_ns;
    int64_t frozen;
    int64_t limit_mw, enforced_mw, default_mw;
    int64_t mig;
    Mig mig_devices[MAX_MIG];
    unsigned mig_count;
    int64_t celsius;
    uint64_t memory_total, memory_used;
    int64_t cores, sm_mhz, memory_mhz, bus_bits, capability; /* capability: 90 is 9.0 */
    Utilization utilization;
    Process processes[MAX_PROCESSES];
    unsigned process_count;
} Device;

/* Acts on every `every`-th call, `left` times in all (negative: without end). */
typedef struct {
    int64_t value, every, left, seen;
} Rule;

typedef struct {
    int64_t calls;
    Rule code, delay_ms;
    int64_t spin_us;
} Script;

typedef struct {
    char name[TEXT];
    Script every_device, device[MAX_DEVICES];
} Function;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t was_reset;
static int64_t generation; /* counts resets */
static int64_t set_ns = -1; /* the time by which the counters run, where it is set by hand */
static int64_t init_count;
static int device_count;
static Device devices[MAX_DEVICES]; /* their addresses are the handles */
static Function functions[MAX_FUNCTIONS];

static const char *const UUIDS[MAX_DEVICES] = {
    "GPU-8d3f1b62-54c9-7ae0-91d7-2f06c3b8e415", "GPU-1c97e0a4-b2d8-43f5-8e6b-90f1a7d3c258",
    "GPU-f40b6d19-7a3e-c581-24f9-d8e15b07a36c", "GPU-6e25a8f7-0d91-b4c3-a718-3c9fe2d4500b",
    "GPU-a9d1c374-e86f-2b50-67ca-15f8b09e7d42", "GPU-37fb90e5-41ac-d862-0fb3-e7a26c8d194f",
    "GPU-c2604e8b-9fd7-1635-be42-704da1f95c83", "GPU-504ad7c6-28be-f91d-d305-8b6c3f02e97a",
};
static const unsigned BUSES[MAX_DEVICES] = {0x19, 0x3b, 0x4c, 0x5d, 0x9b, 0xbb, 0xcb, 0xdb};

static int64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static int64_t physics_ns(void)
{
    return set_ns < 0 ? now_ns(CLOCK_MONOTONIC) : set_ns;
}

static int copy(char *text, unsigned length, const char *from)
{
    if (strlen(from) >= length)
        return INSUFFICIENT_SIZE;
    strcpy(text, from);
    return SUCCESS;
}

/* ---- Scripted behaviour; the mutex is held -------------------------------------------------- */

static Function *find_function(const char *name)
{
    Function *function = functions;
    while (function->name[0] && strcmp(function->name, name) != 0) {
        function++;
        assert(function < functions + MAX_FUNCTIONS);
    }
    if (!function->name[0])
        copy(function->name, TEXT, name);
    return function;
}

static Script *find_script(const char *name, int64_t device)
{
    Function *function = find_function(name);
    return device == EVERY_DEVICE ? &function->every_device : &function->device[device];
}

static int64_t apply(Rule *rule, int64_t otherwise)
{
    if (rule->value == 0 || ++rule->seen % rule->every != 0 || rule->left == 0)
        return otherwise;
    if (rule->left > 0)
        rule->left--;
    return rule->value;
}

/* Waits, and others can have the mutex meanwhile. A reset ends the wait, so that no hanging call
 * outlives its test. Time that is set by hand passes at once. */
static void hang(int64_t ms)
{
    if (set_ns >= 0) {
        set_ns += ms * NS_PER_MS;
        return;
    }
    int64_t end = now_ns(CLOCK_MONOTONIC) + ms * NS_PER_MS, born = generation;
    struct timespec deadline = {end / NS_PER_S, end % NS_PER_S};
    while (generation == born && pthread_cond_timedwait(&was_reset, &mutex, &deadline) != ETIMEDOUT)
        ;
}

/* Takes so much of a processor, and others can have the mutex meanwhile. */
static void spin(int64_t us)
{
    pthread_mutex_unlock(&mutex);
    int64_t end = now_ns(CLOCK_THREAD_CPUTIME_ID) + us * 1000;
    while (now_ns(CLOCK_THREAD_CPUTIME_ID) < end)
        ;
    pthread_mutex_lock(&mutex);
}

/* Counts a call, lets it hang if it shall, and says how it ends. What is scripted for one device
 * comes before what is scripted for all. */
static int consult(const char *name, int device)
{
    Script *script = find_script(name, EVERY_DEVICE);
    script->calls++;
    int64_t code = apply(&script->code, SUCCESS), delay_ms = apply(&script->delay_ms, 0);
    int64_t spin_us = script->spin_us;
    if (0 <= device && device < MAX_DEVICES) {
        script = find_script(name, device);
        script->calls++;
        code = apply(&script->code, code);
        delay_ms = apply(&script->delay_ms, delay_ms);
    }
    int64_t born = generation;
    if (spin_us > 0)
        spin(spin_us);
    if (delay_ms > 0)
        hang(delay_ms);
    return generation == born ? (int)code : UNINITIALIZED;
}

/* Every NVML function starts with enter, which takes the mutex, and ends with leave. */
static int enter(const char *name, int device)
{
    pthread_mutex_lock(&mutex);
    int code = consult(name, device);
    if (init_count == 0)
        return UNINITIALIZED;
    if (device == MIG_DEVICE) /* above all, NVML tells no power of a part of a GPU */
        return NOT_SUPPORTED;
    return device < device_count ? code : INVALID_ARGUMENT;
}

static int leave(int code)
{
    pthread_mutex_unlock(&mutex);
    return code;
}

/* The GPU that a handle of a MIG device is a part of; NULL if it is none. */
static Device *parent_of(const void *handle)
{
    for (Device *device = devices; device < devices + MAX_DEVICES; device++)
        for (unsigned i = 0; i < device->mig_count; i++)
            if (handle == &device->mig_devices[i])
                return device;
    return NULL;
}

/* MAX_DEVICES or, of a MIG device, MIG_DEVICE, if it is not a GPU's handle: enter refuses both. */
static int index_of(const Device *device)
{
    int index = 0;
    while (index < MAX_DEVICES && device != &devices[index])
        index++;
    return index == MAX_DEVICES && parent_of(device) ? MIG_DEVICE : index;
}

/* ---- Physics; the mutex is held ------------------------------------------------------------- */

/* Brings the energy up to date; to be called before anything changes that it depends on. */
static void settle(Device *device)
{
    int64_t now = physics_ns();
    if (!device->frozen)
        device->energy_pj += (__int128)device->power_mw * (now - device->since_ns);
    device->since_ns = now;
}

static uint64_t energy_mj(Device *device)
{
    settle(device);
    return (uint64_t)(device->energy_pj / PJ_PER_MJ);
}

static void set_energy(Device *device, __int128 pj)
{
    settle(device);
    device->energy_pj = pj > 0 ? pj : 0;
}

static unsigned average_mw(const Device *device)
{
    return (unsigned)(device->average_mw < 0 ? device->power_mw : device->average_mw);
}

static uint64_t memory_free(const Device *device)
{
    return device->memory_total - RESERVED_BYTES - device->memory_used;
}

static PciInfo pci_info(const Device *device)
{
    unsigned bus = BUSES[index_of(device)];
    PciInfo info = {.bus = bus, .pci_device_id = 0x233010de, .pci_subsystem_id = 0x16c110de};
    snprintf(info.bus_id_legacy, sizeof info.bus_id_legacy, "0000:%02X:00.0", bus);
    snprintf(info.bus_id, sizeof info.bus_id, "00000000:%02X:00.0", bus);
    return info;
}

static void read_field(Device *device, FieldValue *field)
{
    char name[TEXT];
    snprintf(name, sizeof name, "nvmlDeviceGetFieldValues:%u", field->field);
    field->code = (uint32_t)consult(name, index_of(device));
    field->timestamp_us = now_ns(CLOCK_REALTIME) / 1000;
    field->type = TYPE_UNSIGNED_INT;
    if (field->code != SUCCESS)
        return;
    if (field->scope == 1 && field->field == FIELD_POWER_INSTANT && device->module_mw >= 0)
        field->value.ui = (unsigned)device->module_mw;
    else if (field->scope != 0) /* other parts of a board are not simulated */
        field->code = NOT_SUPPORTED;
    else if (field->field == FIELD_POWER_INSTANT)
        field->value.ui = (unsigned)device->power_mw;
    else if (field->field == FIELD_POWER_AVERAGE)
        field->value.ui = average_mw(device);
    else if (field->field == FIELD_TOTAL_ENERGY) {
        field->type = TYPE_UNSIGNED_LONG_LONG;
        field->value.ull = energy_mj(device);
    } else
        field->code = NOT_SUPPORTED;
}

/* ---- NVML: the library ---------------------------------------------------------------------- */

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    pthread_mutex_lock(&mutex);
    int code = consult(__func__, EVERY_DEVICE);
    if (code == SUCCESS)
        init_count++;
    return leave(code);
}

int nvmlShutdown(void)
{
    int code = enter(__func__, EVERY_DEVICE);
    if (code == SUCCESS)
        init_count--;
    return leave(code);
}

/* pynvml has its own texts for the common codes and asks only for the others. */
const char *nvmlErrorString(int code)
{
    static _Thread_local char text[TEXT];
    snprintf(text, sizeof text, "Simulated error %d", code);
    return text;
}

int nvmlSystemGetDriverVersion(char *text, unsigned length)
{
    int code = enter(__func__, EVERY_DEVICE);
    return leave(code == SUCCESS ? copy(text, length, DRIVER_VERSION) : code);
}

int nvmlSystemGetNVMLVersion(char *text, unsigned length)
{
    int code = enter(__func__, EVERY_DEVICE);
    return leave(code == SUCCESS ? copy(text, length, NVML_VERSION) : code);
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    int code = enter(__func__, EVERY_DEVICE);
    if (code == SUCCESS)
        *count = (unsigned)device_count;
    return leave(code);
}

/* ---- NVML: from a name to a handle ---------------------------------------------------------- */

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device)
{
    int known = index < MAX_DEVICES ? (int)index : MAX_DEVICES;
    int code = enter(__func__, known);
    if (code == SUCCESS)
        *device = &devices[known];
    return leave(code);
}

static int handle_of(const char *function, int index, Device **device)
{
    int code = enter(function, index < MAX_DEVICES ? index : EVERY_DEVICE);
    if (init_count > 0 && index >= device_count)
        code = NOT_FOUND;
    if (code == SUCCESS)
        *device = &devices[index];
    return leave(code);
}

/* The GPU itself or its MIG device of that UUID; NULL if it is neither's. */
static Device *part_of(Device *device, const char *uuid)
{
    if (strcmp(UUIDS[index_of(device)], uuid) == 0)
        return device;
    for (unsigned i = 0; i < device->mig_count; i++)
        if (strcmp(device->mig_devices[i].uuid, uuid) == 0)
            return (Device *)&device->mig_devices[i];
    return NULL;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device **device)
{
    Device *part = NULL;
    int index = 0;
    while (index < MAX_DEVICES && !(part = part_of(&devices[index], uuid)))
        index++;
    int code = handle_of(__func__, index, device);
    if (code == SUCCESS)
        *device = part;
    return code;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, Device **device)
{
    unsigned domain, bus, slot;
    int index = 0;
    if (sscanf(bus_id, "%x:%x:%x", &domain, &bus, &slot) != 3 || domain != 0 || slot != 0)
        index = MAX_DEVICES;
    while (index < MAX_DEVICES && BUSES[index] != bus)
        index++;
    return handle_of(__func__, index, device);
}

/* ---- NVML: readings ------------------------------------------------------------------------- */

#define READING(function, type, expression)                                                        \
    int function(Device *device, type *value)                                                      \
    {                                                                                              \
        int code = enter(__func__, index_of(device));                                              \
        if (code == SUCCESS)                                                                       \
            *value = (expression);                                                                 \
        return leave(code);                                                                        \
    }

READING(nvmlDeviceGetIndex, unsigned, (unsigned)index_of(device))
READING(nvmlDeviceGetPciInfo_v3, PciInfo, pci_info(device))
READING(nvmlDeviceGetTotalEnergyConsumption, uint64_t, energy_mj(device))
READING(nvmlDeviceGetPowerUsage, unsigned, average_mw(device))
READING(nvmlDeviceGetPowerManagementLimit, unsigned, (unsigned)device->limit_mw)
READING(nvmlDeviceGetEnforcedPowerLimit, unsigned, (unsigned)device->enforced_mw)
READING(nvmlDeviceGetPowerManagementDefaultLimit, unsigned, (unsigned)device->default_mw)
READING(nvmlDeviceGetNumGpuCores, unsigned, (unsigned)device->cores)
/* NVML numbers generations: 9 is Hopper. */
READING(nvmlDeviceGetArchitecture, unsigned, 9)
READING(nvmlDeviceGetMemoryBusWidth, unsigned, (unsigned)device->bus_bits)
/* In this first version of the structure what the driver reserves counts as used. */
READING(nvmlDeviceGetMemoryInfo, Memory,
        ((Memory){.total = device->memory_total,
                  .free = memory_free(device),
                  .used = device->memory_used + RESERVED_BYTES}))

/* NVML does not know it of a GPU in MIG mode. */
int nvmlDeviceGetUtilizationRates(Device *device, Utilization *utilization)
{
    int code = enter(__func__, index_of(device));
    if (code == SUCCESS && device->mig)
        code = NOT_SUPPORTED;
    if (code == SUCCESS)
        *utilization = device->utilization;
    return leave(code);
}

int nvmlDeviceGetMemoryInfo_v2(Device *device, MemoryV2 *memory)
{
    int code = enter(__func__, index_of(device));
    if (code == SUCCESS && memory->version != MEMORY_V2)
        code = VERSION_MISMATCH;
    if (code == SUCCESS)
        *memory = (MemoryV2){.version = MEMORY_V2,
                             .total = device->memory_total,
                             .reserved = RESERVED_BYTES,
                             .free = memory_free(device),
                             .used = device->memory_used};
    return leave(code);
}

int nvmlDeviceGetName(Device *device, char *text, unsigned length)
{
    int code = enter(__func__, index_of(device));
    return leave(code == SUCCESS ? copy(text, length, device->name) : code);
}

int nvmlDeviceGetUUID(Device *device, char *text, unsigned length)
{
    Device *parent = parent_of(device);
    int index = index_of(parent ? parent : device), code = enter(__func__, index);
    if (code == SUCCESS)
        code = copy(text, length, parent ? ((Mig *)device)->uuid : UUIDS[index]);
    return leave(code);
}

int nvmlDeviceGetTemperature(Device *device, unsigned sensor, unsigned *celsius)
{
    int code = enter(__func__, index_of(device));
    if (code == SUCCESS && sensor != 0)
        code = INVALID_ARGUMENT;
    if (code == SUCCESS)
        *celsius = (unsigned)device->celsius;
    return leave(code);
}

int nvmlDeviceGetTemperatureV(Device *device, Temperature *temperature)
{
    int code = enter(__func__, index_of(device));
    if (code == SUCCESS && temperature->version != TEMPERATURE_V1)
        code = VERSION_MISMATCH;
    else if (code == SUCCESS && temperature->sensor != 0)
        code = INVALID_ARGUMENT;
    if (code == SUCCESS)
        temperature->celsius = (int)device->celsius;
    return leave(code);
}

int nvmlDeviceGetMaxClockInfo(Device *device, unsigned clock, unsigned *mhz)
{
    int code = enter(__func__, index_of(device));
    if (code == SUCCESS && clock != CLOCK_GRAPHICS && clock != CLOCK_SM && clock != CLOCK_MEMORY)
        code = INVALID_ARGUMENT;
    if (code == SUCCESS)
        *mhz = (unsigned)(clock == CLOCK_MEMORY ? device->memory_mhz : device->sm_mhz);
    return leave(code);
}

int nvmlDeviceGetCudaComputeCapability(Device *device, int *major, int *minor)
{
    int code = enter(__func__, index_of(device));
    if (code == SUCCESS) {
        *major = (int)device->capability / 10;
        *minor = (int)device->capability % 10;
    }
    return leave(code);
}

int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending)
{
    int code = enter(__func__, index_of(device));
    if (code == SUCCESS)
        *current = *pending = (unsigned)device->mig;
    return leave(code);
}

/* How many there can be, not how many there are; 0 where MIG is off, as an H100 answers. */
READING(nvmlDeviceGetMaxMigDeviceCount, unsigned, device->mig ? MAX_MIG : 0)

int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned index, Device **mig)
{
    int code = enter(__func__, index_of(device));
    if (code == SUCCESS && index >= device->mig_count)
        code = NOT_FOUND;
    if (code == SUCCESS)
        *mig = (Device *)&device->mig_devices[index];
    return leave(code);
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device *mig, Device **device)
{
    Device *parent = parent_of(mig);
    int code = enter(__func__, parent ? index_of(parent) : MAX_DEVICES);
    if (code == SUCCESS)
        *device = parent;
    return leave(code);
}

/* The call succeeds even if some fields, or all, do not: each has a code of its own. */
int nvmlDeviceGetFieldValues(Device *device, int count, FieldValue *fields)
{
    int code = enter(__func__, index_of(device));
    for (int i = 0; code == SUCCESS && i < count; i++)
        read_field(device, &fields[i]);
    return leave(code);
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *count, Process *processes)
{
    int code = enter(__func__, index_of(device));
    if (code == SUCCESS) {
        if (*count < device->process_count)
            code = INSUFFICIENT_SIZE;
        else if (device->process_count > 0)
            memcpy(processes, device->processes, device->process_count * sizeof *processes);
        *count = device->process_count;
    }
    return leave(code);
}

/* ---- Control: all numbers are int64_t; the result is 0, or -1 if an argument is wrong -------- */

int64_t fake_reset(void)
{
    pthread_mutex_lock(&mutex);
    generation++;
    pthread_cond_broadcast(&was_reset);
    set_ns = -1;
    init_count = 0;
    device_count = 2;
    memset(functions, 0, sizeof functions);
    for (int i = 0; i < MAX_DEVICES; i++) {
        devices[i] = (Device){
            .name = "NVIDIA H100 80GB HBM3",
            .power_mw = 70000,
            .average_mw = -1,
            .module_mw = -1,
            /* The driver counts from when it was loaded, not from when somebody starts to look. */
            .energy_pj = (__int128)(i + 1) * 123456789 * PJ_PER_MJ,
            .since_ns = now_ns(CLOCK_MONOTONIC),
            .limit_mw = 700000,
            .enforced_mw = 700000,
            .default_mw = 700000,
            .celsius = 30 + i,
            .memory_total = 81559 * MIB,
            .cores = 16896,
            .sm_mhz = 1980,
            .memory_mhz = 2619,
            .bus_bits = 5120,
            .capability = 90,
        };
    }
    return leave(0);
}

/* Unlike an initialiser, pthread_cond_init can choose the clock that nobody sets. */
__attribute__((constructor)) static void load(void)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&was_reset, &attributes);
    fake_reset();
}

int64_t fake_set_device_count(int64_t count)
{
    pthread_mutex_lock(&mutex);
    int valid = 0 <= count && count <= MAX_DEVICES;
    if (valid)
        device_count = (int)count;
    return leave(valid ? 0 : -1);
}

/* From the real time to one that is set, or back (a negative one), no energy is drawn. */
int64_t fake_set_time(int64_t ns)
{
    pthread_mutex_lock(&mutex);
    int other_clock = (ns < 0) != (set_ns < 0);
    for (int i = 0; other_clock && i < MAX_DEVICES; i++)
        settle(&devices[i]);
    set_ns = ns < 0 ? -1 : ns;
    for (int i = 0; other_clock && i < MAX_DEVICES; i++)
        devices[i].since_ns = physics_ns();
    return leave(0);
}

int64_t fake_time(void)
{
    pthread_mutex_lock(&mutex);
    int64_t ns = physics_ns();
    pthread_mutex_unlock(&mutex);
    return ns;
}

#define CONTROL(function, type, statement)                                                         \
    int64_t function(int64_t index, type value)                                                    \
    {                                                                                              \
        pthread_mutex_lock(&mutex);                                                                \
        int valid = 0 <= index && index < device_count;                                            \
        if (valid) {                                                                               \
            Device *device = &devices[index];                                                      \
            statement;                                                                             \
        }                                                                                          \
        return leave(valid ? 0 : -1);                                                              \
    }

CONTROL(fake_set_name, const char *, valid = copy(device->name, TEXT, value) == SUCCESS)
CONTROL(fake_set_power, int64_t, settle(device); device->power_mw = value)
CONTROL(fake_set_average_power, int64_t, device->average_mw = value)
CONTROL(fake_set_module_power, int64_t, device->module_mw = value)
CONTROL(fake_set_counter, int64_t, set_energy(device, (__int128)value * PJ_PER_MJ))
CONTROL(fake_shift_counter, int64_t, settle(device);
        set_energy(device, device->energy_pj + (__int128)value * PJ_PER_MJ))
CONTROL(fake_freeze_counter, int64_t, settle(device); device->frozen = value)
CONTROL(fake_set_gpu_utilization, int64_t, device->utilization.gpu = (unsigned)value)
CONTROL(fake_set_memory_utilization, int64_t, device->utilization.memory = (unsigned)value)
CONTROL(fake_set_memory_total, int64_t, device->memory_total = (uint64_t)value)
CONTROL(fake_set_memory_used, int64_t, device->memory_used = (uint64_t)value)
CONTROL(fake_set_cores, int64_t, device->cores = value)
CONTROL(fake_set_sm_mhz, int64_t, device->sm_mhz = value)
CONTROL(fake_set_memory_mhz, int64_t, device->memory_mhz = value)
CONTROL(fake_set_bus_bits, int64_t, device->bus_bits = value)
CONTROL(fake_set_capability, int64_t, device->capability = value)
CONTROL(fake_set_temperature, int64_t, device->celsius = value)
CONTROL(fake_set_power_limit, int64_t, device->limit_mw = value)
CONTROL(fake_set_enforced_power_limit, int64_t, device->enforced_mw = value)
CONTROL(fake_set_default_power_limit, int64_t, device->default_mw = value)
CONTROL(fake_set_mig, int64_t, device->mig = value; device->mig_count = 0)
CONTROL(fake_add_mig_device, const char *,
        valid = device->mig && device->mig_count < MAX_MIG &&
                copy(device->mig_devices[device->mig_count].uuid, TEXT, value) == SUCCESS;
        device->mig_count += valid ? 1 : 0)

int64_t fake_add_process(int64_t index, int64_t pid, int64_t used_bytes)
{
    pthread_mutex_lock(&mutex);
    int valid = 0 <= index && index < device_count;
    if (valid && (valid = devices[index].process_count < MAX_PROCESSES))
        devices[index].processes[devices[index].process_count++] = (Process){
            .pid = (unsigned)pid,
            .used_bytes = (uint64_t)used_bytes,
            .gpu_instance = ~0u, /* NVML's way to say that MIG is off */
            .compute_instance = ~0u,
        };
    return leave(valid ? 0 : -1);
}

/* A rule is for one device or EVERY_DEVICE, those that do not exist (yet) included. */
static int is_rule(int64_t device, int64_t every)
{
    return EVERY_DEVICE <= device && device < MAX_DEVICES && every > 0;
}

int64_t fake_fail(const char *name, int64_t device, int64_t code, int64_t every, int64_t times)
{
    pthread_mutex_lock(&mutex);
    int valid = is_rule(device, every);
    if (valid)
        find_script(name, device)->code = (Rule){.value = code, .every = every, .left = times};
    return leave(valid ? 0 : -1);
}

int64_t fake_delay(const char *name, int64_t device, int64_t ms, int64_t every, int64_t times)
{
    pthread_mutex_lock(&mutex);
    int valid = is_rule(device, every);
    if (valid)
        find_script(name, device)->delay_ms = (Rule){.value = ms, .every = every, .left = times};
    return leave(valid ? 0 : -1);
}

int64_t fake_spin(const char *name, int64_t us)
{
    pthread_mutex_lock(&mutex);
    find_script(name, EVERY_DEVICE)->spin_us = us;
    return leave(0);
}

int64_t fake_calls(const char *name, int64_t device)
{
    pthread_mutex_lock(&mutex);
    int64_t calls = is_rule(device, 1) ? find_script(name, device)->calls : -1;
    pthread_mutex_unlock(&mutex);
    return calls;
}
