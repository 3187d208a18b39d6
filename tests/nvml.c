/* In NVML's place where there is no GPU: an A100 in use, under the driver that DRIVER names. */
#include <stdlib.h>
#include <string.h>

#define SUCCESS 0
#define INSUFFICIENT_SIZE 7

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned pid; unsigned long long memory; unsigned instances[2]; } Process;

int nvmlInitWithFlags(unsigned flags) { return SUCCESS; }

int nvmlInit(void) { return SUCCESS; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = 1;
    return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    strncpy(version, getenv("DRIVER"), length);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = device;
    return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    strncpy(name, "NVIDIA A100-SXM4-40GB", length);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
    *memory = (Memory){40ull << 30, 8ull << 30, 32ull << 30};
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, Process *processes) {
    if (*count < 2) {
        *count = 2;
        return INSUFFICIENT_SIZE;
    }
    *count = 2;
    memset(processes, 0, 2 * sizeof(Process));
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(void *device, unsigned type, unsigned *mhz) {
    *mhz = 210;
    return SUCCESS;
}

int nvmlDeviceGetMaxClockInfo(void *device, unsigned type, unsigned *mhz) {
    *mhz = 1410;
    return SUCCESS;
}
