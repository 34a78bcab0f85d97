// Attention of each frame's tokens to themselves and to those of its portrait, for GPUs with wgmma (compute capability
// 9.0, Hopper): softmax(q kᵀ / √WIDTH) v over the frame's own keys and the portrait's, the "bank".
//
// Compiled with -DWIDTH (of a head: 40 or 80), -DKEYS (of a block: 64), -DGROUPS (of 64 queries that a block of threads
// computes), -DREGISTERS (of each of these threads), -DSTAGES (blocks of keys on their way) and -DBF16 (0: fp16).
//
// Three things make it faster than general kernels at these widths:
//
// * Widths are not padded to 64 or 128. Keys and values lie in memory as the tensor cores read them, without a swizzle:
//   planes of 8 channels, in which a row is 16 bytes. A plane more or less is possible, a power of two is not needed.
// * Weights are 2^(score - m), with m subtracted by the tensor cores: the queries have two more channels that hold -m,
//   and the keys' are constants. So a weight takes an exponential, a sum and half a conversion, and nothing else.
// * m need not be the maximum. It is that of the first block of keys, and stays until a weight would be too large for
//   fp16; only then is the maximum looked for and everything before scaled. The result is the same, as m cancels.

typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int CHUNKS = WIDTH / 8;               // planes of 8 channels
constexpr int PLANE = KEYS * 16;                // bytes
constexpr int BLOCK = 2 * CHUNKS * PLANE;       // of keys, then values
constexpr int STEPS = (WIDTH + 2 + 15) / 16;    // of 16 channels, in the product of queries and keys
constexpr bool HALF_STEP = WIDTH % 16 == 8;     // the last step begins with 8 channels of the head
constexpr int SCORES = KEYS / 2, PAIRS = KEYS / 4, OUTPUTS = WIDTH / 2;  // registers of a thread
constexpr float LARGEST = 32768.f;              // sum of weights from which one may be too large for fp16
constexpr u32 THIRTY_TWO_AND_ONE = BF16 ? 0x3f804200 : 0x3c005000;  // the keys' two constant channels

// A number for each of a thread's two rows, which are 8 apart.
struct RowPair { float upper, lower; };

__device__ __forceinline__ float exp2_(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ u32 pack(float first, float second) {
    u32 y;
#if BF16
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(second), "f"(first));
#else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(second), "f"(first));
#endif
    return y;
}

__device__ __forceinline__ float2 unpack(u32 x) {
#if BF16
    return make_float2(__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000));
#else
    float2 y;
    asm("{ .reg .f16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b; }" : "=f"(y.x), "=f"(y.y) : "r"(x));
    return y;
#endif
}

// ---- Blocks of keys and values come by the copy engine; barriers in shared memory say which are there, and free.

__device__ __forceinline__ u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

__device__ __forceinline__ void init_barrier(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

__device__ __forceinline__ void arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void wait(u32 barrier, u32 parity) {
    asm volatile(
        "{ .reg .pred done;\n"
        "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again; }" ::"r"(barrier), "r"(parity) : "memory");
}

__device__ __forceinline__ void copy(u32 to, const unsigned char* from, u32 bytes, u32 barrier) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

// Shared memory for the tensor cores to see what threads wrote.
__device__ __forceinline__ void fence_writes() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- Products of 64 rows, whose left side is in registers and whose right side is in shared memory.

#if BF16
#define TYPES "f32.bf16.bf16"
#else
#define TYPES "f32.f16.f16"
#endif
#define FOUR(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define TWENTY(d, i) FOUR(d, i), FOUR(d, i + 4), FOUR(d, i + 8), FOUR(d, i + 12), FOUR(d, i + 16)
#define NAMES_20 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19"
#define NAMES_32 NAMES_20 ", %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_40 NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"

// Descriptors of shared memory: its address, and how far planes and groups of 8 rows are apart, in units of 16 bytes.
__device__ __forceinline__ u64 descriptor(u32 address, u32 leading, u32 stride) {
    return (u64)(address + (leading << 16)) | (u64)stride << 32;  // sums, as the compiler can take constants together
}

// scores += or = 16 channels of queries · 64 keysᵀ
__device__ __forceinline__ void multiply(float (&d)[SCORES], const u32 (&a)[4], u64 b, bool add) {
    asm volatile("{ .reg .pred add; setp.ne.b32 add, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16." TYPES " {" NAMES_32 "}, {%32, %33, %34, %35}, %36, add, 1, 1, 0; }"
                 : TWENTY(d, 0), FOUR(d, 20), FOUR(d, 24), FOUR(d, 28)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add));
}

// outputs += weights of 16 keys · their values
__device__ __forceinline__ void multiply_values(float (&d)[OUTPUTS], u32 a0, u32 a1, u32 a2, u32 a3, u64 b) {
#if WIDTH == 40
    asm volatile("wgmma.mma_async.sync.aligned.m64n40k16." TYPES " {" NAMES_20 "}, {%20, %21, %22, %23}, %24, 1, 1, 1, 1;"
                 : TWENTY(d, 0) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
#else
    asm volatile("wgmma.mma_async.sync.aligned.m64n80k16." TYPES " {" NAMES_40 "}, {%40, %41, %42, %43}, %44, 1, 1, 1, 1;"
                 : TWENTY(d, 0), TWENTY(d, 20) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
#endif
}

__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void wait_for_products() {
    asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
}

// The compiler does not know when products change registers: it may not move their uses across this.
template <int N> __device__ __forceinline__ void settle(float (&registers)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(registers[i])::"memory");
}

// Scores of a block of keys, less m. Addresses in units of 16 bytes.
__device__ __forceinline__ void score(float (&scores)[SCORES], const u32 (&query)[STEPS][4], u32 keys, u32 constants) {
    const u32 plane = PLANE / 16, rows = 8;
#pragma unroll
    for (int step = 0; step < STEPS - 1; step++)
        multiply(scores, query[step], descriptor(keys + 2 * step * plane, plane, rows), step > 0);
    const u32 last = HALF_STEP ? keys + (CHUNKS - 1) * plane : constants;
    multiply(scores, query[STEPS - 1], descriptor(last, constants - last, rows), true);
}

// Adds the block's values by their weights.
__device__ __forceinline__ void gather(float (&outputs)[OUTPUTS], const u32 (&weights)[PAIRS], u32 values) {
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) {
        const u32* w = weights + 4 * step;
        multiply_values(outputs, w[0], w[1], w[2], w[3], descriptor(values + 16 * step, 8, PLANE / 16));
    }
}

// ---- Weights.

// Weights of scores; returns their sums over this thread's part of its rows.
__device__ __forceinline__ RowPair weigh(const float (&scores)[SCORES], u32 (&weights)[PAIRS]) {
    float sums[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < SCORES; i += 4) {
        float w[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            w[j] = exp2_(scores[i + j]);
            sums[j] += w[j];
        }
        weights[i / 2] = pack(w[0], w[1]);
        weights[i / 2 + 1] = pack(w[2], w[3]);
    }
    return {sums[0] + sums[1], sums[2] + sums[3]};
}

__device__ __forceinline__ float maximum_of_row(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

// m as the query's two channels have it: -m = 32 a + b.
__device__ __forceinline__ u32 as_channels(float& m) {
    const float a = unpack(pack(-m / 32, 0)).x, b = unpack(pack(-m - 32 * a, 0)).x;
    m = -(32 * a + b);
    return pack(a, b);
}

// Raises m to the maximum of the scores, where that is higher or it is the first, and changes what depends on it.
__device__ __forceinline__ void raise(float (&scores)[SCORES], float (&outputs)[OUTPUTS], u32 (&query)[STEPS][4], RowPair& m,
                                      RowPair& sum, bool first) {
    RowPair highest = {scores[0], scores[2]};
#pragma unroll
    for (int i = 0; i < SCORES; i += 4) {
        highest.upper = fmaxf(highest.upper, fmaxf(scores[i], scores[i + 1]));
        highest.lower = fmaxf(highest.lower, fmaxf(scores[i + 2], scores[i + 3]));
    }
    highest = {maximum_of_row(highest.upper), maximum_of_row(highest.lower)};
    RowPair next = {m.upper + (first ? highest.upper : fmaxf(highest.upper, 0)),
                    m.lower + (first ? highest.lower : fmaxf(highest.lower, 0))};
    const u32 upper = as_channels(next.upper), lower = as_channels(next.lower);
    if (threadIdx.x % 4 == 0) {
        query[STEPS - 1][HALF_STEP ? 2 : 0] = upper;
        query[STEPS - 1][HALF_STEP ? 3 : 1] = lower;
    }
    const RowPair by = {next.upper - m.upper, next.lower - m.lower};
#pragma unroll
    for (int i = 0; i < SCORES; i++) scores[i] -= i % 4 < 2 ? by.upper : by.lower;
    if (!first) {
        const RowPair factor = {exp2_(-by.upper), exp2_(-by.lower)};
        sum = {sum.upper * factor.upper, sum.lower * factor.lower};
#pragma unroll
        for (int i = 0; i < OUTPUTS; i++) outputs[i] *= i % 4 < 2 ? factor.upper : factor.lower;
    }
    m = next;
}

// ---- Kernels.

// Keys and values [n, blocks · 64, heads, WIDTH] → [n, heads, blocks, 2, CHUNKS, 64, 8]. Strides in bytes.
// Grid: blocks, n, 2. A warp moves 8 rows of 4 chunks at once.
extern "C" __global__ void pack_keys(const unsigned char* keys, const unsigned char* values, u64 image_stride, u64 row_stride,
                                     int heads, uint4* packed) {
    const int block = blockIdx.x, n = blockIdx.y, half = blockIdx.z, lane = threadIdx.x % 32;
    const unsigned char* from = (half ? values : keys) + n * image_stride + (u64)block * KEYS * row_stride;
    const int quads = heads * CHUNKS / 4;
    for (int i = threadIdx.x / 32; i < KEYS / 8 * quads; i += blockDim.x / 32) {
        const int row = i / quads * 8 + lane % 8, chunk = i % quads * 4 + lane / 8;
        const u64 to = (((u64)(n * heads + chunk / CHUNKS) * gridDim.x + block) * 2 + half) * CHUNKS + chunk % CHUNKS;
        packed[to * KEYS + row] = *(const uint4*)(from + row * row_stride + chunk * 16);
    }
}

// Queries [n, length, heads, WIDTH] (strides in bytes), packed keys and values of n images and of one bank →
// [n, length, heads · WIDTH]. `scale` is that of scores, times log2(e).
// Grid: groups of 64 · GROUPS queries, heads, n. The last 128 threads only fetch.
extern "C" __global__ void __launch_bounds__(128 * (GROUPS + 1), 1)
attend(const unsigned char* queries, u64 image_stride, u64 row_stride, int length, const unsigned char* own, int own_blocks,
       const unsigned char* bank, int bank_blocks, float scale, unsigned char* out) {
    extern __shared__ __align__(128) unsigned char memory[];  // stages, constants, barriers
    const int head = blockIdx.y, heads = gridDim.y, n = blockIdx.z, blocks = own_blocks + bank_blocks;
    const u32 stages = shared_address(memory), constants = stages + STAGES * BLOCK, full = constants + PLANE;
    const u32 empty = full + 8 * STAGES;

    if (threadIdx.x < KEYS) ((uint4*)(memory + STAGES * BLOCK))[threadIdx.x] = make_uint4(THIRTY_TWO_AND_ONE, 0, 0, 0);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            init_barrier(full + 8 * i, 1);
            init_barrier(empty + 8 * i, 4 * GROUPS);  // one for each warp
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    fence_writes();
    __syncthreads();

    if (threadIdx.x >= 128 * GROUPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x > 128 * GROUPS) return;
        own += (u64)(n * heads + head) * own_blocks * BLOCK;
        bank += (u64)head * bank_blocks * BLOCK;
        for (int i = 0; i < blocks; i++) {
            const int stage = i % STAGES;
            if (i >= STAGES) wait(empty + 8 * stage, (i / STAGES - 1) & 1);
            const unsigned char* from = i < own_blocks ? own + (u64)i * BLOCK : bank + (u64)(i - own_blocks) * BLOCK;
            copy(stages + stage * BLOCK, from, BLOCK, full + 8 * stage);
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));

    // A thread has parts of two rows, 8 apart: of each 8 columns, a pair that its number in a group of four says.
    const int row = (blockIdx.x * 4 * GROUPS + threadIdx.x / 32) * 16 + threadIdx.x % 32 / 4, pair = threadIdx.x % 4 * 4;
    u32 query[STEPS][4];
    {
        const unsigned char* from = queries + n * image_stride + head * (2 * WIDTH) + pair;
        const unsigned char* upper = from + (u64)min(row, length - 1) * row_stride;
        const unsigned char* lower = from + (u64)min(row + 8, length - 1) * row_stride;
#pragma unroll
        for (int step = 0; step < STEPS; step++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int column = 16 * step + 8 * (i / 2);
                const float2 x = column < WIDTH ? unpack(*(const u32*)((i % 2 ? lower : upper) + 2 * column)) : make_float2(0, 0);
                query[step][i] = pack(x.x * scale, x.y * scale);
            }
    }
    float scores[SCORES], outputs[OUTPUTS];
    u32 weights[PAIRS];
    RowPair m = {0, 0}, sum = {0, 0};
#pragma unroll
    for (int i = 0; i < OUTPUTS; i++) outputs[i] = 0;

    int stage = 0;
    u32 parity = 0;
    wait(full, 0);
    begin_products();
    score(scores, query, stages / 16, constants / 16);
    wait_for_products();
    settle(scores);
    for (int i = 0; i < blocks; i++) {
        RowPair sums = weigh(scores, weights);
        if (__any_sync(~0u, i == 0 || !(fmaxf(sums.upper, sums.lower) < LARGEST))) {
            raise(scores, outputs, query, m, sum, i == 0);
            sums = weigh(scores, weights);
        }
        sum = {sum.upper + sums.upper, sum.lower + sums.lower};
        settle(scores);
        settle(outputs);
        begin_products();
        gather(outputs, weights, (stages + stage * BLOCK + BLOCK / 2) / 16);
        const int used = stage;
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
        if (i + 1 < blocks) {  // the next scores, before these products have ended
            wait(full + 8 * stage, parity);
            score(scores, query, (stages + stage * BLOCK) / 16, constants / 16);
        }
        wait_for_products();
        settle(scores);
        settle(outputs);
        if (threadIdx.x % 32 == 0) arrive(empty + 8 * used);
    }

#pragma unroll
    for (int other = 1; other < 4; other *= 2) {
        sum.upper += __shfl_xor_sync(~0u, sum.upper, other);
        sum.lower += __shfl_xor_sync(~0u, sum.lower, other);
    }
    const RowPair share = {1 / sum.upper, 1 / sum.lower};
    unsigned char* to = out + ((u64)n * length * heads + head) * (2 * WIDTH) + pair;
#pragma unroll
    for (int i = 0; i < OUTPUTS; i += 4) {
        const u64 column = 4 * i;
        if (row < length)
            *(u32*)(to + (u64)row * heads * (2 * WIDTH) + column) = pack(outputs[i] * share.upper, outputs[i + 1] * share.upper);
        if (row + 8 < length)
            *(u32*)(to + (u64)(row + 8) * heads * (2 * WIDTH) + column) =
                pack(outputs[i + 2] * share.lower, outputs[i + 3] * share.lower);
    }
}
