// Vectors of LANES values, also of pairs of values in half the bits, their transposition, and products of matrices.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#if defined(__AVX512BF16__) && LANES == 16
#define HALVES // by the processor's own instructions
#include <cpuid.h>
#include <immintrin.h>
#endif

#ifndef LANES
#define LANES 8
#endif
#ifndef ROWS
#define ROWS 4 // of a block of weights: with COLUMNS, as many sums as registers hold
#endif
#ifndef COLUMNS
#define COLUMNS (LANES == 16 ? 6 : 3)
#endif
#ifndef DEPTH
#define DEPTH 160 // products that are added up before the next rows have their turn
#endif

static_assert(LANES % ROWS == 0, "rows that are filled up to LANES are packed ROWS at a time");

namespace {

typedef float V __attribute__((vector_size(LANES * 4)));

// Keep a value that was read in a register, where it would be read again by every instruction that needs it.
#if (LANES == 16 && defined(__AVX512F__)) || (LANES == 8 && defined(__AVX__))
#define KEPT(v) asm("" : "+v"(v))
#else
#define KEPT(v)
#endif

// A large function that is compiled once, and not again wherever it is called.
#define APART __attribute__((noinline))

inline int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

// The scalar product of two arrays.
inline double product_of(const float *a, const float *b, int64_t n) {
    constexpr int SUMS = 16; // that do not wait for each other
    double sums[SUMS] = {}, sum = 0;
    int64_t i = 0;
    for (; i + SUMS <= n; i += SUMS)
        for (int j = 0; j < SUMS; j++)
            sums[j] += double(a[i + j]) * b[i + j];
    for (; i < n; i++)
        sum += double(a[i]) * b[i];
    for (const double own : sums)
        sum += own;
    return sum;
}

struct Memory { // aligned, kept by its thread, and only ever larger
    V *data = nullptr;
    size_t size = 0;
    ~Memory() { std::free(data); }
    V *at_least(size_t n) {
        if (n > size) {
            std::free(data);
            size = 0;
            data = static_cast<V *>(std::aligned_alloc(64, blocks_of(n * sizeof(V), 64) * 64));
            if (!data)
                throw std::bad_alloc();
            size = n;
        }
        return data;
    }
};

// ---- transposition of LANES vectors, by exchanging halves of blocks

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t Places __attribute__((vector_size(LANES * 4)));
#define SHUFFLED(a, b, ...) __builtin_shuffle(a, b, Places{__VA_ARGS__})
#endif
template <int S, size_t... I> inline V low(V a, V b, std::index_sequence<I...>) {
    return SHUFFLED(a, b, ((I / S) % 2 ? LANES + (int)I - S : (int)I)...);
}
template <int S, size_t... I> inline V high(V a, V b, std::index_sequence<I...>) {
    return SHUFFLED(a, b, ((I / S) % 2 ? LANES + (int)I : (int)I + S)...);
}
template <int S> inline void exchange(V *v) {
    for (int i = 0; i < LANES; i++)
        if (!(i & S)) {
            V a = v[i], b = v[i + S];
            v[i] = low<S>(a, b, std::make_index_sequence<LANES>());
            v[i + S] = high<S>(a, b, std::make_index_sequence<LANES>());
        }
}
inline void transpose(V *v) {
    exchange<1>(v);
    exchange<2>(v);
#if LANES > 4
    exchange<4>(v);
#endif
#if LANES > 8
    exchange<8>(v);
#endif
}
inline V load(const float *p) {
    V v;
    std::memcpy(&v, p, sizeof(V));
    return v;
}
inline V vector_at(const float *p) { return load(p); }
inline V vector_at(const V *p) { return *p; }
inline void store(float *p, V v) { std::memcpy(p, &v, sizeof(V)); }

// What is there of LANES values of which the first so many are.
inline V some(const float *from, int64_t n) {
    if (n >= LANES)
        return load(from);
    V v{};
    for (int64_t i = 0; i < n; i++)
        v[i] = from[i];
    return v;
}

// ---- pairs of values in half the bits, bfloat16: the first in the lower half

typedef uint32_t Pairs __attribute__((vector_size(LANES * 4)));

// Rounded to the nearest, to an even one between two.
inline Pairs rounded(V v) {
    const Pairs bits = (Pairs)v;
    const Pairs numbers = (Pairs)(v == v), others = (bits >> 16) | 64; // what is not a number stays so
    return (numbers & ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)) | (~numbers & others);
}

#ifdef HALVES
inline Pairs paired(V first, V second) {
    constexpr auto mixed = [] {
        struct { uint16_t places[32]; } found{};
        for (int i = 0; i < 32; i++)
            found.places[i] = uint16_t(i / 2 + i % 2 * 16);
        return found;
    }();
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    return (Pairs)_mm512_permutexvar_epi16(_mm512_loadu_si512(&mixed), both);
}
// As above, in any order of lanes.
inline Pairs paired_anyhow(V first, V second) { return (Pairs)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first); }
// sum + a b, of both values of pairs
inline V added(V sum, Pairs a, Pairs b) { return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }
#else
inline Pairs paired(V first, V second) { return rounded(first) | rounded(second) << 16; }
inline Pairs paired_anyhow(V first, V second) { return paired(first, second); }
inline V added(V sum, Pairs a, Pairs b) {
    const Pairs upper = Pairs{} + 0xffff0000;
    return sum + (V)(a << 16) * (V)(b << 16) + (V)(a & upper) * (V)(b & upper);
}
#endif

// ---- products of matrices, whose rows are packed ROWS at a time: [block of rows][k][row]

inline V added(V sum, V a, V b) { return sum + a * b; }
inline V everywhere(float x) { return x - V{}; }
inline Pairs everywhere(uint32_t x) { return x - Pairs{}; }

// y[row][column] = sum over k of w[k][row] z[k][column], or that is added
template <int N, class W, class Z>
inline void multiply(const W *w, const Z *z, int64_t n, int64_t stride, V *y, int64_t y_stride, bool add) {
    V sum[ROWS][N] = {};
    if (add)
        for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < N; c++)
                sum[r][c] = y[r * y_stride + c];
    for (int64_t k = 0; k < n; k++, w += ROWS, z += stride) {
        Z column[N];
        for (int c = 0; c < N; c++)
            column[c] = z[c];
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            const Z each = everywhere(w[r]);
#pragma GCC unroll 8
            for (int c = 0; c < N; c++)
                sum[r][c] = added(sum[r][c], each, column[c]);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < N; c++)
            y[r * y_stride + c] = sum[r][c];
}

template <class W, class Z>
APART void multiply_all(const W *w, int64_t n_rows, const Z *z, int64_t n, int64_t columns, int64_t stride, V *y) {
    for (int64_t c = 0; c < columns; c += COLUMNS)
        for (int64_t k = 0; k < n; k += DEPTH) // what all rows read stays in the first cache
            for (int64_t r = 0; r < n_rows; r += ROWS) {
                const W *own = w + r * n + k * ROWS;
                const Z *from = z + k * stride + c;
                const int64_t depth = std::min<int64_t>(DEPTH, n - k);
                V *to = y + r * stride + c;
                switch (std::min<int64_t>(COLUMNS, columns - c)) {
                case 1: multiply<1>(own, from, depth, stride, to, stride, k); break;
                case 2: multiply<2>(own, from, depth, stride, to, stride, k); break;
                case 3: multiply<3>(own, from, depth, stride, to, stride, k); break;
#if LANES == 16
                case 4: multiply<4>(own, from, depth, stride, to, stride, k); break;
                case 5: multiply<5>(own, from, depth, stride, to, stride, k); break;
#endif
                default: multiply<COLUMNS>(own, from, depth, stride, to, stride, k);
                }
            }
}

} // namespace
