/* In NVML's place where there is no GPU: A100s in use. The environment says what they are like:
   DRIVER   the driver's version
   NVML_GPUS  how many there are, 1 by default
   MIG      into how many instances each is divided; where it is not set, none is in MIG mode
   REFUSED  names of questions that are answered with "Insufficient Permissions"
   LOST     the index of one that has fallen off the bus
   OTHER    the index of one that is an H200
   EXCLUSIVE  if it is set, only one process at a time may compute on each
   CLOCKS   the multiprocessors' clock in MHz at each question, the last one from then on
   REASONS  why clocks are held back, the same way */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUCCESS 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NO_PERMISSION 4
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7
#define GPU_IS_LOST 15

#define MAY_ASK(what)                                                   \
    if (getenv("REFUSED") && strstr(getenv("REFUSED"), what)) return NO_PERMISSION

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned pid; unsigned long long memory; unsigned instances[2]; } Process;

/* A handle is 100 times the GPU's index from 1 on, and its instance's from 1 on. */
typedef size_t Device;

static int number(const char *name, int otherwise) {
    return getenv(name) ? atoi(getenv(name)) : otherwise;
}

static unsigned next_of(const char *name, unsigned otherwise, int *asked) {
    const char *values = getenv(name);
    unsigned value = otherwise;
    for (int place = 0; values && place <= *asked; place++) {
        value = atoi(values);
        values = strchr(values, ',') ? strchr(values, ',') + 1 : NULL;
    }
    ++*asked;
    return value;
}

int nvmlInitWithFlags(unsigned flags) { return SUCCESS; }

int nvmlInit(void) { return SUCCESS; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = number("NVML_GPUS", 1);
    return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    MAY_ASK("SystemGetDriverVersion");
    strncpy(version, getenv("DRIVER"), length);
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion(int *version) {
    MAY_ASK("SystemGetCudaDriverVersion");
    *version = 12080;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *device) {
    if (index >= number("NVML_GPUS", 1)) return INVALID_ARGUMENT;
    if (index == number("LOST", -1)) return GPU_IS_LOST;
    *device = 100 * (index + 1);
    return SUCCESS;
}

int nvmlDeviceGetMigMode(Device device, unsigned *now, unsigned *later) {
    if (getenv("MIG") == NULL) return NOT_SUPPORTED;
    *now = *later = 1;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(Device device, unsigned *count) {
    *count = 7;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device device, unsigned index, Device *instance) {
    if (index >= number("MIG", 0)) return NOT_FOUND;
    *instance = device + index + 1;
    return SUCCESS;
}

int nvmlDeviceGetUUID(Device device, char *uuid, unsigned length) {
    unsigned gpu = device / 100 - 1, instance = device % 100;
    if (instance)
        snprintf(uuid, length, "MIG-c7384736-a75d-5afc-978f-d2f1294409d%u", 8 * gpu + instance);
    else
        snprintf(uuid, length, "GPU-8932f93%u-d72c-4106-c12f-20bd9faed9f6", gpu);
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device *device) {
    char own[96];
    for (unsigned gpu = 1; gpu <= number("NVML_GPUS", 1); gpu++)
        for (unsigned instance = 0; instance <= number("MIG", 0); instance++) {
            *device = 100 * gpu + instance;
            nvmlDeviceGetUUID(*device, own, sizeof own);
            if (strcmp(uuid, own) == 0) return SUCCESS;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetName(Device device, char *name, unsigned length) {
    MAY_ASK("Name");
    const char *part = device % 100 ? " MIG 1g.5gb" : "";
    int is_other = device / 100 - 1 == number("OTHER", -1);
    snprintf(name, length, "NVIDIA %s%s", is_other ? "H200" : "A100-SXM4-40GB", part);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(Device device, Memory *memory) {
    MAY_ASK("MemoryInfo");
    if (device % 100)
        *memory = (Memory){5ull << 30, 4ull << 30, 1ull << 30};
    else if (getenv("MIG"))
        return NO_PERMISSION;
    else
        *memory = (Memory){40ull << 30, 8ull << 30, 32ull << 30};
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned *count, Process *processes) {
    MAY_ASK("ComputeRunningProcesses");
    if (*count < 2) {
        *count = 2;
        return INSUFFICIENT_SIZE;
    }
    *count = 2;
    memset(processes, 0, 2 * sizeof(Process));
    return SUCCESS;
}

/* What follows is told of whole GPUs alone. */

int nvmlDeviceGetClockInfo(Device device, unsigned type, unsigned *mhz) {
    static int asked;
    MAY_ASK("ClockInfo");
    if (device % 100) return INVALID_ARGUMENT;
    *mhz = type == 1 ? next_of("CLOCKS", 210, &asked) : 1215;
    return SUCCESS;
}

int nvmlDeviceGetMaxClockInfo(Device device, unsigned type, unsigned *mhz) {
    if (device % 100) return INVALID_ARGUMENT;
    *mhz = 1410;
    return SUCCESS;
}

int nvmlDeviceGetComputeMode(Device device, unsigned *mode) {
    MAY_ASK("ComputeMode");
    if (device % 100) return INVALID_ARGUMENT;
    *mode = getenv("EXCLUSIVE") ? 3 : 0;
    return SUCCESS;
}

int nvmlDeviceGetPowerManagementLimit(Device device, unsigned *milliwatts) {
    if (device % 100) return INVALID_ARGUMENT;
    *milliwatts = 400000;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(Device device, unsigned *milliwatts) {
    static unsigned asked;
    MAY_ASK("PowerUsage");
    if (device % 100) return INVALID_ARGUMENT;
    *milliwatts = 300000 + 1000 * asked++;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(Device device, unsigned sensor, unsigned *celsius) {
    static unsigned asked;
    MAY_ASK("Temperature");
    if (device % 100) return INVALID_ARGUMENT;
    *celsius = 50 + asked++;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Device device, unsigned long long *reasons) {
    static int asked;
    MAY_ASK("CurrentClocksThrottleReasons");
    if (device % 100) return INVALID_ARGUMENT;
    *reasons = next_of("REASONS", 0, &asked);
    return SUCCESS;
}
