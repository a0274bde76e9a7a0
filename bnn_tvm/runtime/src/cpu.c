/* Does this processor have what the kernels use? Better an error than an illegal instruction. */
#include "cpu.h"

#include <stddef.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

/* leaf, register (0 eax .. 3 edx), bit: Intel SDM volume 2A, CPUID. */
static const struct {
  const char *name;
  unsigned leaf, reg, bit;
} kFeatures[] = {
    {"sse3", 1, 2, 0},          {"ssse3", 1, 2, 9},       {"fma", 1, 2, 12},
    {"sse4.1", 1, 2, 19},       {"sse4.2", 1, 2, 20},     {"movbe", 1, 2, 22},
    {"popcnt", 1, 2, 23},       {"avx", 1, 2, 28},        {"f16c", 1, 2, 29},
    {"bmi", 7, 1, 3},           {"avx2", 7, 1, 5},        {"bmi2", 7, 1, 8},
    {"avx512f", 7, 1, 16},      {"avx512dq", 7, 1, 17},   {"avx512ifma", 7, 1, 21},
    {"avx512cd", 7, 1, 28},     {"avx512bw", 7, 1, 30},   {"avx512vl", 7, 1, 31},
    {"avx512vbmi", 7, 2, 1},    {"avx512vbmi2", 7, 2, 6}, {"gfni", 7, 2, 8},
    {"avx512vnni", 7, 2, 11},   {"avx512bitalg", 7, 2, 12}, {"avx512vpopcntdq", 7, 2, 14},
    {"lzcnt", 0x80000001u, 2, 5},
};

/* The operating system saves the vector registers (XCR0): bits 1-2 for AVX, 5-7 for AVX512. */
static unsigned saved_state(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0;
  __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return a;
}

static int has(const char *name) {
  for (size_t i = 0; i < sizeof kFeatures / sizeof *kFeatures; ++i) {
    unsigned r[4];
    if (strcmp(name, kFeatures[i].name) != 0) continue;
    if (!__get_cpuid_count(kFeatures[i].leaf, 0, &r[0], &r[1], &r[2], &r[3])) return 0;
    if (!(r[kFeatures[i].reg] >> kFeatures[i].bit & 1)) return 0;
    if (!strncmp(name, "avx512", 6)) return (saved_state() & 0xe6) == 0xe6;
    if (!strncmp(name, "avx", 3) || !strcmp(name, "fma")) return (saved_state() & 6) == 6;
    return 1;
  }
  return 1;
}

#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

/* Linux's arch/arm64/include/uapi/asm/hwcap.h: 16 = AT_HWCAP, 26 = AT_HWCAP2. */
static const struct {
  const char *name;
  unsigned long type;
  unsigned bit;
} kFeatures[] = {
    {"neon", 16, 1},     {"aes", 16, 3},      {"crc", 16, 7},      {"lse", 16, 8},
    {"fullfp16", 16, 9}, {"rdm", 16, 12},     {"rcpc", 16, 15},    {"sha3", 16, 17},
    {"dotprod", 16, 20}, {"sve", 16, 22},     {"fp16fml", 16, 23}, {"sve2", 26, 1},
    {"i8mm", 26, 13},    {"bf16", 26, 14},    {"sme", 26, 23},     {"sme2", 26, 37},
};

static int has(const char *name) {
  for (size_t i = 0; i < sizeof kFeatures / sizeof *kFeatures; ++i)
    if (!strcmp(name, kFeatures[i].name))
      return (int)(getauxval(kFeatures[i].type) >> kFeatures[i].bit & 1);
  return 1;
}

#else
static int has(const char *name) {
  (void)name;
  return 1;
}
#endif

const char *bnn_missing_cpu_feature(const char *const *features) {
  for (; *features != NULL; ++features)
    if (!has(*features)) return *features;
  return NULL;
}
