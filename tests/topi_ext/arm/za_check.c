/* A caller whose ZA is live when it calls an SME2 kernel, as AAPCS64 lets it: the exit code names
 * the first thing that is wrong afterwards, 0 if all is well. Needs no libc. */
typedef unsigned long u64;
typedef unsigned char u8;

extern int kernel(void *planes, void *weights, void *out);
static _Alignas(64) u8 in[1 << 20], weights[1 << 20], out[1 << 20];
static _Alignas(64) u8 pattern[256 * 256], saved[256 * 256 + 256];
static struct { void *buffer; unsigned short slices; u8 reserved[6]; } block;

void *memset(void *p, int v, u64 n) { volatile u8 *d = p; while (n--) *d++ = (u8)v; return p; }
void *memcpy(void *p, const void *q, u64 n)
{ volatile u8 *d = p; const u8 *s = q; while (n--) *d++ = *s++; return p; }

typedef struct { void *sync; int tasks; } env;
static int launch(int (*task)(int, env *, void *), void *data, int tasks)
{ env one = {0, 1}; (void)tasks; return task(0, &one, data); }
int (*__TVMBackendParallelLaunch)(int (*)(int, env *, void *), void *, int) = launch;

#define SME ".arch_extension sme\n\t"
static u64 tpidr2(void) { u64 v; __asm__ volatile(SME "mrs %0, TPIDR2_EL0" : "=r"(v)); return v; }
static u64 svcr(void) { u64 v; __asm__ volatile(SME "mrs %0, S3_3_C4_C2_2" : "=r"(v)); return v; }
static u64 vector_bytes(void) { u64 v; __asm__ volatile(SME "rdsvl %0, #1" : "=r"(v)); return v; }

static void fill_za(u64 bytes)
{
    __asm__ volatile(SME "smstart za");
    for (u64 i = 0; i < bytes; ++i)
        __asm__ volatile(SME "mov w12, %w0\n\tldr za[w12, 0], [%1]"
                         : : "r"(i), "r"(pattern + i * bytes) : "w12", "memory");
}

static int call(void)
{
    register double kept __asm__("d8") = 0x1.23456789abcdp3;
    __asm__ volatile("" : "+w"(kept));
    int status = kernel(in, weights, out);
    __asm__ volatile("" : "+w"(kept));
    return status != 0 || kept != 0x1.23456789abcdp3;
}

static int check(void)
{
    u64 bytes = vector_bytes();
    for (u64 i = 0; i < bytes * bytes; ++i) pattern[i] = (u8)(i * 31 + (i >> 8) * 7 + 1);
    if (call() || svcr() != 0) return 1;               /* nobody uses ZA: off before and after */
    for (int whole = 0; whole < 2; ++whole) {
        memset(saved, 0xee, sizeof saved);
        fill_za(bytes);
        block.buffer = saved;
        block.slices = (unsigned short)(whole ? bytes : bytes / 2);
        __asm__ volatile(SME "msr TPIDR2_EL0, %0" : : "r"(&block) : "memory");
        if (call()) return 2;
        if (tpidr2() != 0) return 3;                   /* 0 tells the caller to restore ZA */
        if (svcr() != 0) return 4;
        u64 length = block.slices * bytes;
        for (u64 i = 0; i < length; ++i)
            if (saved[i] != pattern[i]) return 5;
        for (u64 i = length; i < sizeof saved; ++i)
            if (saved[i] != 0xee) return 6;            /* no more than the caller asked for */
    }
    fill_za(bytes);                                    /* a block without a buffer: no one cares */
    block.buffer = 0;
    __asm__ volatile(SME "msr TPIDR2_EL0, %0" : : "r"(&block) : "memory");
    return call() || tpidr2() != 0 || svcr() != 0 ? 7 : 0;
}

void start(void)
{
    register long x8 __asm__("x8") = 94, x0 __asm__("x0") = check();
    __asm__ volatile("svc 0" : : "r"(x8), "r"(x0));
}
__asm__(".globl _start\n_start: mov x29, xzr\n\tand x0, x0, xzr\n\tbl start\n");
