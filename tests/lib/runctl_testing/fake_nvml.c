/* A stand-in for the driver's libnvidia-ml.so.1, with two GPUs, for machines that have none. What happens to
   them is told by files in the folder FAKE_NVML: `xid` (a number; told once, as an event of GPU 1), `ecc` (so
   many uncorrectable errors of GPU 0), `lost` (GPU 1 is), `mute` (no events), `broken` (it cannot be used). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, NOT_SUPPORTED = 3, DRIVER_NOT_LOADED = 9, TIMEOUT = 10, LOST = 15 };
typedef struct { char legacy[16]; unsigned domain, bus, device, id, sub; char bus_id[32]; } pci_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { void *device; unsigned long long type, data; unsigned gpu_instance, compute_instance; } event_t;

static int gpus[2] = {0, 1};
static int number(void *device) { return *(int *)device; }

static int read_file(const char *name, long *value) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", getenv("FAKE_NVML"), name);
  FILE *file = fopen(path, "r");
  if (!file) return 0;
  *value = 0;
  if (fscanf(file, "%ld", value) != 1) *value = 1;
  fclose(file);
  return 1;
}

static int gone(void *device) { long value; return number(device) == 1 && read_file("lost", &value); }

int nvmlInitWithFlags(unsigned flags) { long v; return read_file("broken", &v) ? DRIVER_NOT_LOADED : SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &gpus[index]; return SUCCESS; }
int nvmlDeviceGetName(void *device, char *name, unsigned size) {
  snprintf(name, size, "Pretend %d", number(device));
  return SUCCESS;
}
int nvmlDeviceGetPciInfo_v3(void *device, pci_t *pci) {
  memset(pci, 0, sizeof *pci);
  snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", 0x3B + number(device));
  return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(void *device, utilization_t *used) {
  if (gone(device)) return LOST;
  used->gpu = 40 + number(device);
  used->memory = 7;
  return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
  memory->total = 1000; memory->used = 250; memory->free = 750;
  return gone(device) ? LOST : SUCCESS;
}
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) { *celsius = 61; return SUCCESS; }
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) { return NOT_SUPPORTED; }
int nvmlDeviceGetTotalEccErrors(void *device, int kind, int counter, unsigned long long *count) {
  long value = 0;
  if (number(device) == 0) read_file("ecc", &value);
  *count = kind == 1 && counter == 0 ? (unsigned long long)value : 99;
  return SUCCESS;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons) {
  *reasons = number(device) == 0 ? 0x40 : 0x1;
  return SUCCESS;
}
int nvmlEventSetCreate(void **set) { *set = gpus; return SUCCESS; }
int nvmlDeviceGetSupportedEventTypes(void *device, unsigned long long *types) {
  long v;
  *types = read_file("mute", &v) ? 0 : 0x1f;
  return SUCCESS;
}
int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) {
  return (types & ~0xaULL) ? NOT_SUPPORTED : SUCCESS;
}
int nvmlEventSetWait_v2(void *set, event_t *event, unsigned timeout) {
  static int told;
  long value;
  for (unsigned waited = 0; waited <= timeout; waited += 10) {
    if (read_file("lost", &value)) return LOST;
    if (!told && read_file("xid", &value)) {
      told = 1;
      memset(event, 0, sizeof *event);
      event->device = &gpus[1];
      event->type = 8;
      event->data = (unsigned long long)value;
      return SUCCESS;
    }
    usleep(10000);
  }
  return TIMEOUT;
}
