// Vectors of LANES values, their transposition, and products of matrices.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#ifndef LANES
#define LANES 8
#endif
#ifndef ROWS
#define ROWS 4 // of a block of weights: with COLUMNS, as many sums as registers hold
#endif
#define COLUMNS 3
#ifndef DEPTH
#define DEPTH 160 // products that are added up before the next rows have their turn
#endif

static_assert(LANES % ROWS == 0, "rows that are filled up to LANES are packed ROWS at a time");

namespace {

typedef float V __attribute__((vector_size(LANES * 4)));

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
inline void store(float *p, V v) { std::memcpy(p, &v, sizeof(V)); }

// ---- products of matrices, whose rows are packed ROWS at a time: [block of rows][k][row]

// y[row][column] = sum over k of w[k][row] z[k][column], or that is added
template <int N> inline void multiply(const float *w, const V *z, int64_t n, int64_t stride, V *y, int64_t y_stride, bool add) {
    V sum[ROWS][N] = {};
    if (add)
        for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < N; c++)
                sum[r][c] = y[r * y_stride + c];
    for (int64_t k = 0; k < n; k++, w += ROWS, z += stride) {
        V column[N];
        for (int c = 0; c < N; c++)
            column[c] = z[c];
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            V each = w[r] - V{};
#pragma GCC unroll 4
            for (int c = 0; c < N; c++)
                sum[r][c] += each * column[c];
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < N; c++)
            y[r * y_stride + c] = sum[r][c];
}

inline void multiply_all(const float *w, int64_t n_rows, const V *z, int64_t n, int64_t columns, int64_t stride, V *y) {
    for (int64_t c = 0; c < columns; c += COLUMNS)
        for (int64_t k = 0; k < n; k += DEPTH) // what all rows read stays in the first cache
            for (int64_t r = 0; r < n_rows; r += ROWS) {
                const float *own = w + r * n + k * ROWS;
                const V *from = z + k * stride + c;
                const int64_t depth = std::min<int64_t>(DEPTH, n - k);
                V *to = y + r * stride + c;
                switch (std::min<int64_t>(COLUMNS, columns - c)) {
                case 1: multiply<1>(own, from, depth, stride, to, stride, k); break;
                case 2: multiply<2>(own, from, depth, stride, to, stride, k); break;
                default: multiply<3>(own, from, depth, stride, to, stride, k);
                }
            }
}

} // namespace
