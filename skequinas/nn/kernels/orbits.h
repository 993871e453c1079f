// Orbits of channels under a subgroup H of D4 in the Fourier basis of H: their transforms, kernels packed by blocks, and
// what is multiplied by these. See fused.py for the mathematics.
//
// A tile of a few positions is convolved thus:
//   gather    reads the orbits of the positions for every tap, and transforms each;
//   multiply  them by the blocks of the kernel, one for each representation of H;
//   restore   transforms back.

#pragma once

#include "vectors.h"

#ifndef TILE
#define TILE 6 // positions whose orbits are transformed at once; a multiple of COLUMNS
#endif

namespace {

struct Orbits { // of a convolution: the taps of its kernel, and how many orbits of channels under H it has
    int64_t taps, fields_in, fields_out;
};

// ---- Fourier transforms of orbits. The elements of H come as the rotations by increasing angle, then each of these
// after one mirror. `pairs` are the representations of dimension 2, as `rows` rows of two entries each.

struct Two { // C2, D1
    static constexpr int order = 2, signs = 2, rows = 0;
    static inline void forward(const V *z, V *o) {
        o[0] = z[0] + z[1];
        o[1] = z[0] - z[1];
    }
    static inline void inverse(const V *y, V *o) { forward(y, o); }
};

struct Four { // D2
    static constexpr int order = 4, signs = 4, rows = 0;
    static inline void forward(const V *z, V *o) {
        V a = z[0] + z[1], b = z[0] - z[1], c = z[2] + z[3], d = z[2] - z[3];
        o[0] = a + c;
        o[1] = a - c;
        o[2] = b + d;
        o[3] = b - d;
    }
    static inline void inverse(const V *y, V *o) {
        V a = y[0] + y[1], b = y[2] + y[3], c = y[0] - y[1], d = y[2] - y[3];
        o[0] = a + b;
        o[1] = a - b;
        o[2] = c + d;
        o[3] = c - d;
    }
};

struct Turns { // C4: the pair is one of a complex number, and has one row
    static constexpr int order = 4, signs = 2, rows = 1;
    static inline void forward(const V *z, V *o) {
        V a = z[0] + z[2], b = z[1] + z[3];
        o[0] = a + b;
        o[1] = a - b;
        o[2] = z[0] - z[2];
        o[3] = z[3] - z[1];
    }
    static inline void inverse(const V *y, V *o) {
        V a = y[0] + y[1], b = y[0] - y[1];
        o[0] = a + y[2];
        o[2] = a - y[2];
        o[1] = b - y[3];
        o[3] = b + y[3];
    }
};

struct Eight { // D4
    static constexpr int order = 8, signs = 4, rows = 2;
    static inline void forward(const V *z, V *o) {
        V a = z[0] + z[2], b = z[1] + z[3], u = z[0] - z[2], v = z[1] - z[3];
        V c = z[4] + z[6], d = z[5] + z[7], s = z[4] - z[6], t = z[5] - z[7];
        V p = a + b, q = a - b, r = c + d, w = c - d;
        o[0] = p + r;
        o[1] = p - r;
        o[2] = q + w;
        o[3] = q - w;
        o[4] = u + s;
        o[5] = t - v;
        o[6] = v + t;
        o[7] = u - s;
    }
    static inline void inverse(const V *y, V *o) {
        V a = y[0] + y[1], b = y[2] + y[3], c = y[0] - y[1], d = y[2] - y[3];
        V p = a + b, q = a - b, r = c + d, w = c - d;
        V u = y[4] + y[7], v = y[6] - y[5], s = y[4] - y[7], t = y[5] + y[6];
        o[0] = p + u;
        o[2] = p - u;
        o[1] = q + v;
        o[3] = q - v;
        o[4] = r + s;
        o[6] = r - s;
        o[5] = w + t;
        o[7] = w - t;
    }
};

// What is multiplied: values as they are, or rounded ones, two in a lane, which are summed together. Of the
// representations of dimension 1 those are of two fields, of dimension 2 the two entries.
struct Exact {
    typedef V Value;
    typedef float Weight;
    static constexpr int each = 1;
};
struct Reduced {
    typedef Pairs Value;
    typedef uint32_t Weight;
    static constexpr int each = 2;
};

// The depth of the products of each representation of dimension 1, and of those of dimension 2.
template <class A> inline int64_t sign_depth(const Orbits &o) { return blocks_of(o.fields_in, A::each) * o.taps; }
template <class A> inline int64_t pair_depth(const Orbits &o) { return 2 / A::each * o.fields_in * o.taps; }

// How many weights the blocks of a kernel take, one after the other, packed in ROWS rows.
template <class A> inline int64_t sign_size(const Orbits &o) {
    return blocks_of(o.fields_out, ROWS) * ROWS * sign_depth<A>(o);
}
template <class H, class A> inline int64_t pair_size(const Orbits &o) {
    return H::rows ? blocks_of(2 * o.fields_out, ROWS) * ROWS * pair_depth<A>(o) : 0;
}
template <class H, class A> inline int64_t blocks_size(const Orbits &o) {
    return H::signs * sign_size<A>(o) + pair_size<H, A>(o);
}

// The transform of an orbit.
template <class H, class Read> inline void transform(Read read, V *o) {
    V orbit[H::order];
    for (int h = 0; h < H::order; h++)
        orbit[h] = read(h);
    H::forward(orbit, o);
}

// Where the gathered orbits of a tile are, [tap and field][position], for each representation of dimension 1, then
// [tap, field and entry][row and position]; and their products, [field][position] and [field and entry][row and position].
template <class H, class A> struct Tile {
    typedef typename A::Value Value;
    static constexpr int signs = H::signs, rows = H::rows;
    int64_t stride, padded; // between representations, of values and of products
    Value *signs_at, *pairs_at;
    V *products, *pair_products;
    static int64_t stride_of(const Orbits &o) { return (sign_depth<A>(o) * TILE) | 1; }
    static int64_t padded_of(const Orbits &o) { return (blocks_of(2 * o.fields_out, ROWS) * ROWS + ROWS) * TILE; }
    static int64_t size(const Orbits &o) {
        return stride_of(o) * signs + (rows ? pair_depth<A>(o) * rows : 0) * TILE + 16;
    }
    static int64_t products_size(const Orbits &o) { return padded_of(o) * (signs + 2); }
    Tile(const Orbits &o, V *memory, V *other)
        : stride(stride_of(o)), padded(padded_of(o)), signs_at(reinterpret_cast<Value *>(memory)),
          pairs_at(signs_at + signs * stride), products(other), pair_products(other + signs * padded) {}
};

// Gather one field, or, of rounded ones, two; the second may be missing.
template <class H, class Read>
inline void gather(const Tile<H, Exact> &to, const Orbits &o, int64_t field, int64_t tap, int64_t count, Read read) {
    const int64_t k = field * o.taps + tap;
    V *pairs = to.pairs_at + 2 * k * H::rows * TILE;
    for (int64_t t = 0; t < count; t++) {
        V z[H::order];
        transform<H>([&](int h) { return read(0, h, t); }, z);
        for (int i = 0; i < H::signs; i++)
            to.signs_at[i * to.stride + k * TILE + t] = z[i];
        for (int a = 0; a < H::rows; a++)
            for (int b = 0; b < 2; b++)
                pairs[b * H::rows * TILE + a * count + t] = z[H::signs + 2 * a + b];
    }
}
template <class H, class Read>
inline void gather(const Tile<H, Reduced> &to, const Orbits &o, int64_t field, int64_t tap, int64_t count, Read read) {
    const int64_t k = field / 2 * o.taps + tap;
    Pairs *first = to.pairs_at + (field * o.taps + tap) * H::rows * TILE, *second = first + o.taps * H::rows * TILE;
    const bool both = field + 1 < o.fields_in;
    for (int64_t t = 0; t < count; t++) {
        V z[H::order], other[H::order] = {};
        transform<H>([&](int h) { return read(0, h, t); }, z);
        if (both)
            transform<H>([&](int h) { return read(1, h, t); }, other);
        for (int i = 0; i < H::signs; i++)
            to.signs_at[i * to.stride + k * TILE + t] = paired(z[i], other[i]);
        for (int a = 0; a < H::rows; a++) {
            const int i = H::signs + 2 * a;
            first[a * count + t] = paired(z[i], z[i + 1]);
            if (both)
                second[a * count + t] = paired(other[i], other[i + 1]);
        }
    }
}

// The products of a tile whose positions are `at` so many elements from the beginning of each channel's plane, which are
// `plane` elements apart; `steps` lead from a position to where each moved tap reads.
template <class H, class A, class E>
void multiply_tile(const Tile<H, A> &tile, const Orbits &o, const void *packed, const E *x, int64_t plane,
                   const int32_t *orbits_in, const int64_t *steps, const int32_t *at, int64_t count) {
    constexpr int order = H::order, signs = H::signs, rows = H::rows;
    for (int64_t field = 0; field < o.fields_in; field += A::each) {
        const E *from[A::each][order];
        for (int i = 0; i < A::each; i++)
            for (int h = 0; h < order; h++)
                from[i][h] = x + orbits_in[std::min(field + i, o.fields_in - 1) * order + h] * plane;
        for (int64_t tap = 0; tap < o.taps; tap++) {
            const int64_t *step = steps + tap * order;
            gather<H>(tile, o, field, tap, count, [&](int i, int h, int64_t t) { return vector_at(from[i][h] + step[h] + at[t]); });
        }
    }
    const auto *blocks = static_cast<const typename A::Weight *>(packed);
    const int64_t sign = sign_size<A>(o);
    for (int i = 0; i < signs; i++)
        multiply_all(blocks + i * sign, o.fields_out, tile.signs_at + i * tile.stride, sign_depth<A>(o), count, TILE,
                     tile.products + i * tile.padded);
    if (rows)
        multiply_all(blocks + signs * sign, 2 * o.fields_out, tile.pairs_at, pair_depth<A>(o), rows * count, rows * TILE,
                     tile.pair_products);
}

// The outputs of an orbit of channels at a position of a tile; a level is added to all.
template <class H, class A>
inline void restore(const Tile<H, A> &tile, int64_t field, int64_t t, int64_t count, float level, V *orbit) {
    V z[H::order];
    for (int i = 0; i < H::signs; i++)
        z[i] = tile.products[i * tile.padded + field * TILE + t];
    for (int a = 0; a < H::rows; a++)
        for (int c = 0; c < 2; c++)
            z[H::signs + 2 * a + c] = tile.pair_products[(2 * field + c) * H::rows * TILE + a * count + t];
    z[0] += level;
    H::inverse(z, orbit);
}

// ---- packing a kernel: from its entries read(orbit that comes out, field and tap, element) to blocks

// The place of what is multiplied by a value, [block of rows][k][row], and the weight there.
template <class A> inline void put(typename A::Weight *weights, int64_t depth, int64_t row, int64_t k, int second, float w) {
    auto &at = weights[(row / ROWS * depth + k) * ROWS + row % ROWS];
    if constexpr (A::each == 1)
        at = w;
    else
        at |= rounded(everywhere(w))[0] << 16 * second;
}

template <class H, class A, class Read> void pack(const Orbits &shape, Read read, typename A::Weight *blocks) {
    constexpr int order = H::order, signs = H::signs, each = A::each;
    const int64_t taps = shape.taps, n = shape.fields_in * taps, sign = sign_size<A>(shape);
    std::memset(blocks, 0, blocks_size<H, A>(shape) * sizeof(*blocks));
    auto *pairs = blocks + signs * sign;
    for (int64_t row = 0; row < shape.fields_out; row++)
        for (int64_t first = 0; first < n; first += LANES) {
            const int64_t count = std::min<int64_t>(LANES, n - first);
            V orbit[order] = {}, o[order];
            for (int64_t k = 0; k < count; k++)
                for (int h = 0; h < order; h++)
                    orbit[h][k] = read(row, first + k, h);
            H::forward(orbit, o);
            for (int64_t j = 0; j < count; j++) {
                const int64_t k = first + j, field = k / taps, at = field / each * taps + k % taps;
                for (int i = 0; i < signs; i++)
                    put<A>(blocks + i * sign, sign_depth<A>(shape), row, at, field % each, o[i][j] * (1.0f / order));
                if (H::rows) {
                    const int last = order - 1;
                    const float e[2][2] = {{o[signs][j], o[signs + 1][j]},
                                           {H::rows == 2 ? o[last - 1][j] : -o[signs + 1][j],
                                            H::rows == 2 ? o[last][j] : o[signs][j]}};
                    for (int c = 0; c < 2; c++)
                        for (int b = 0; b < 2; b++)
                            put<A>(pairs, pair_depth<A>(shape), 2 * row + c, (2 * k + b) / each, b % each,
                                   e[c][b] * (2.0f / order));
                }
            }
        }
}

} // namespace
