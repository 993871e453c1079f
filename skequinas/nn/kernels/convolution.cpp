// Convolutions whose kernels are constrained to a subgroup H of D4, in the Fourier basis of H. See fused.py for the
// mathematics, and for the tables that come with a job. Plain pointers, no headers of torch or Python.
//
// Images lie in the lanes of vectors: LANES images are worked on at once, so that no loop depends on the number of
// channels or on the width of a map. A UNIT is a few such batches of whole small maps, or a band of rows of large ones:
// it is copied, with its zero border, to a scratch [channel][row][column][lane], and convolved by tiles of a few positions.
// A job may be `reduced`: what is multiplied is rounded to bfloat16, after the transforms, and taken in pairs. Maps,
// transforms and sums stay as they are.
// Results depend neither on the number of threads nor on which thread does what.

#include "orbits.h"
#include "threads.h"

#include <algorithm>
#include <cstring>

#ifndef SIDE
#define SIDE (LANES == 16 ? 4 : 3) // columns of sums of products that registers hold, of four rows
#endif
#ifndef CHUNK
#define CHUNK 64 // positions over which the gradient of weights is summed before lanes are added up
#endif
#ifndef PAIRS
#define PAIRS 12 // pairs of a tap and a field that it is computed for at once
#endif
#define SLOTS 8        // sums of gradients that are kept apart, whatever the number of threads
#ifndef SCRATCH
#define SCRATCH (256000 / LANES) // vectors of a unit, about: a megabyte
#endif

namespace {

// ---- what is done, as Python says it

struct Job {
    int64_t kind;                     // 0 C2 or D1, 1 D2, 2 C4, 3 D4
    int64_t images, height, width;    // of the maps
    int64_t taps, half;               // taps of the kernel, and half of its side, rounded down
    int64_t fields_in, fields_out;    // orbits of channels under H
    int64_t channels_in, channels_out; // all of them
    int64_t reduced;           // whether what is multiplied is rounded
    const int32_t *orbits_in;  // (fields_in, order): channels
    const int32_t *orbits_out; // (fields_out, order)
    const int32_t *steps;      // (taps, order, 2): from a position to where a moved tap reads, down and right
    const float *x;            // (images, height, width, channels_in)
    float *y;                  // (images, height, width, channels_out); for gradients of weights: what is given
    const void *blocks;        // of the kernel, packed
    float *slots;              // sums of gradients
    float *gradient;           // of the weights
    const int64_t *rows;       // (cosets, cosets, taps, order): which of the weights are the kernel's entries
    int64_t cosets;            // orbits of channels of a field
    int64_t transposed;        // whether the weights (rows, out, in) are of a kernel whose transpose this is
    Threads threads;

    Orbits orbits() const { return {taps, fields_in, fields_out}; }
};

// Where the entries of a kernel are among the weights (rows, out, in): those of the first channel of each orbit that
// comes out, by tap and field, k, and by element.
struct Entries {
    const Job &job;
    int64_t order, n_out, n_in; // fields
    Entries(const Job &job, int64_t order)
        : job(job), order(order), n_out(job.fields_out / job.cosets), n_in(job.fields_in / job.cosets) {}
    int64_t operator()(int64_t orbit, int64_t k, int64_t h) const {
        const int64_t from = k / job.taps, tap = k % job.taps, out = orbit / job.cosets, in = from / job.cosets;
        const int64_t pair = orbit % job.cosets * job.cosets + from % job.cosets;
        const int64_t row = job.rows[(pair * job.taps + tap) * order + h];
        return row * n_out * n_in + (job.transposed ? in * n_out + out : out * n_in + in);
    }
};

// ---- units

struct Unit {
    int64_t first, batches; // of images, in steps of LANES
    int64_t top, rows;
};

struct Plan {
    int64_t batches, bands, batches_each, rows_each, n;
    explicit Plan(const Job &job) {
        int64_t row = (job.width + 2 * job.half) * job.channels_in;
        batches = blocks_of(job.images, LANES);
        rows_each = SCRATCH / row - 2 * job.half;
        if (rows_each < 4)
            rows_each = 4;
        if (rows_each > job.height)
            rows_each = job.height;
        bands = blocks_of(job.height, rows_each);
        rows_each = blocks_of(job.height, bands); // alike
        bands = blocks_of(job.height, rows_each);
        batches_each = bands > 1 ? 1 : CHUNK / (job.height * job.width);
        if (batches_each > batches / 2)
            batches_each = batches / 2; // at least two units, for two threads
        if (batches_each < 1)
            batches_each = 1;
        n = blocks_of(batches, batches_each) * bands;
    }
    Unit unit(const Job &job, int64_t number) const {
        int64_t first = number / bands * batches_each, top = number % bands * rows_each;
        return {first, std::min(batches_each, batches - first), top, std::min(rows_each, job.height - top)};
    }
};

// The scratch of a unit: [channel][batch][row][column][lane], with a border. Planes are an odd number of vectors apart:
// as many as a power of two (14x14 pixels and a border) would lie in one set of the cache, all channels of an orbit.
struct Scratch {
    int64_t width, rows, map, plane;
    Scratch(const Job &job, const Unit &unit, int64_t half)
        : width(job.width + 2 * half), rows(unit.rows + 2 * half), map(rows * width), plane((map * unit.batches) | 1) {}
};

// Copy what a unit reads of maps (images, height, width, channels) into the scratch.
void fill(const Job &job, const Unit &unit, const Scratch &s, int64_t half, const float *x, int64_t channels, V *to) {
    const int64_t pixel = channels, image = job.height * job.width * channels;
    for (int64_t batch = 0; batch < unit.batches; batch++) {
        const int64_t first = (unit.first + batch) * LANES, n = std::min<int64_t>(LANES, job.images - first);
        for (int64_t row = 0; row < s.rows; row++) {
            const int64_t source = unit.top + row - half;
            V *line = to + batch * s.map + row * s.width;
            if (source < 0 || source >= job.height) {
                for (int64_t c = 0; c < channels; c++)
                    std::memset(line + c * s.plane, 0, s.width * sizeof(V));
                continue;
            }
            if (half)
                for (int64_t c = 0; c < channels; c++) {
                    std::memset(line + c * s.plane, 0, half * sizeof(V));
                    std::memset(line + c * s.plane + s.width - half, 0, half * sizeof(V));
                }
            for (int64_t column = 0; column < job.width; column++) {
                const float *from = x + first * image + (source * job.width + column) * pixel;
                V *at = line + half + column;
                int64_t c = 0;
                for (; c + LANES <= channels; c += LANES) {
                    V v[LANES];
                    for (int i = 0; i < LANES; i++)
                        v[i] = i < n ? load(from + i * image + c) : V{};
                    transpose(v);
                    for (int i = 0; i < LANES; i++)
                        at[(c + i) * s.plane] = v[i];
                }
                for (; c < channels; c++) {
                    V v{};
                    for (int i = 0; i < n; i++)
                        v[i] = from[i * image + c];
                    at[c * s.plane] = v;
                }
            }
        }
    }
}

// Where the positions of a unit lie in a plane of the scratch.
void place(const Job &job, const Unit &unit, const Scratch &s, int64_t half, int32_t *at) {
    for (int64_t batch = 0; batch < unit.batches; batch++)
        for (int64_t row = 0; row < unit.rows; row++)
            for (int64_t column = 0; column < job.width; column++)
                *at++ = int32_t(batch * s.map + (row + half) * s.width + column + half);
}

// ---- sums of products over positions

// The sum of the lanes of each of LANES vectors: two by two become one, whose lanes are sums of theirs in turn.
template <int S> inline void fold(V *v) {
    for (int i = 0; i < LANES / (2 * S); i++) {
        const V a = v[2 * i], b = v[2 * i + 1];
        v[i] = low<S>(a, b, std::make_index_sequence<LANES>()) + high<S>(a, b, std::make_index_sequence<LANES>());
    }
}
inline V totals(V *v) {
    fold<1>(v);
    fold<2>(v);
#if LANES > 4
    fold<4>(v);
#endif
#if LANES > 8
    fold<8>(v);
#endif
    return v[0];
}

// d[row][k] += sum over columns and lanes of a[row][column] z[k][column]
template <int M, int N, class Z>
inline void correlate(const Z *a, const Z *z, int64_t columns, int64_t stride, float *d, int64_t d_stride) {
    V sum[M][N] = {};
    for (int64_t c = 0; c < columns; c++) {
        Z each[N];
        for (int k = 0; k < N; k++)
            each[k] = z[k * stride + c];
#pragma GCC unroll 16
        for (int r = 0; r < M; r++) {
            Z own = a[r * stride + c];
            KEPT(own);
#pragma GCC unroll 4
            for (int k = 0; k < N; k++)
                sum[r][k] = added(sum[r][k], own, each[k]);
        }
    }
    V *all = &sum[0][0];
    for (int first = 0; first < M * N; first += LANES) {
        V own[LANES] = {};
        for (int i = 0; i < LANES && first + i < M * N; i++)
            own[i] = all[first + i];
        const V found = totals(own);
        for (int i = 0; i < LANES && first + i < M * N; i++)
            d[(first + i) / N * d_stride + (first + i) % N] += found[i];
    }
}

template <int M, class Z>
void correlate_rows(const Z *a, const Z *z, int64_t n, int64_t columns, int64_t stride, float *d, int64_t d_stride) {
    for (int64_t k = 0; k < n; k += SIDE)
        switch (std::min<int64_t>(SIDE, n - k)) {
        case 1: correlate<M, 1>(a, z + k * stride, columns, stride, d + k, d_stride); break;
        case 2: correlate<M, 2>(a, z + k * stride, columns, stride, d + k, d_stride); break;
        case 3: correlate<M, 3>(a, z + k * stride, columns, stride, d + k, d_stride); break;
        default: correlate<M, SIDE>(a, z + k * stride, columns, stride, d + k, d_stride);
        }
}

template <class Z>
APART void correlate_all(
    const Z *a, int64_t m, const Z *z, int64_t n, int64_t columns, int64_t stride, float *d, int64_t d_stride) {
    int64_t r = 0;
    for (; r + 4 <= m; r += 4)
        correlate_rows<4>(a + r * stride, z, n, columns, stride, d + r * d_stride, d_stride);
    for (; r < m; r++)
        correlate_rows<1>(a + r * stride, z, n, columns, stride, d + r * d_stride, d_stride);
}

// ---- the convolution

thread_local Memory scratch_memory, second_memory, gathered_memory, product_memory;
thread_local std::vector<int32_t> positions;

// The inputs of a unit, with their border.
const V *read_inputs(const Job &job, const Unit &unit, const Scratch &s) {
    V *x = scratch_memory.at_least(s.plane * job.channels_in);
    fill(job, unit, s, job.half, job.x, job.channels_in, x);
    return x;
}

// From a position to where each moved tap reads, in the scratch.
std::vector<int64_t> steps_in(const Job &job, const Scratch &s, int order) {
    std::vector<int64_t> steps(job.taps * order);
    for (size_t i = 0; i < steps.size(); i++)
        steps[i] = job.steps[2 * i] * s.width + job.steps[2 * i + 1];
    return steps;
}

template <class H, class A> void convolve_unit(const Job &job, const Unit &unit) {
    const Scratch s(job, unit, job.half);
    const int64_t n_positions = unit.batches * unit.rows * job.width;
    const V *x = read_inputs(job, unit, s);
    const std::vector<int64_t> steps = steps_in(job, s, H::order);
    positions.resize(n_positions);
    place(job, unit, s, job.half, positions.data());

    const Orbits orbits = job.orbits();
    V *products = product_memory.at_least(Tile<H, A>::products_size(orbits) + (job.channels_out + LANES) * TILE);
    V *out = products + Tile<H, A>::products_size(orbits);
    const Tile<H, A> tile(orbits, gathered_memory.at_least(Tile<H, A>::size(orbits)), products);
    const int64_t image = job.height * job.width * job.channels_out, band = unit.rows * job.width;

    for (int64_t first = 0; first < n_positions; first += TILE) {
        const int64_t count = std::min<int64_t>(TILE, n_positions - first);
        multiply_tile(tile, orbits, job.blocks, x, s.plane, job.orbits_in, steps.data(), positions.data() + first, count);
        for (int64_t field = 0; field < job.fields_out; field++) {
            const int32_t *channel = job.orbits_out + field * H::order;
            for (int64_t t = 0; t < count; t++) {
                V orbit[H::order];
                restore(tile, field, t, count, 0.0f, orbit);
                for (int h = 0; h < H::order; h++)
                    out[channel[h] * TILE + t] = orbit[h];
            }
        }
        for (int64_t t = 0; t < count; t++) {
            const int64_t position = first + t, batch = position / band, rest = position % band;
            const int64_t start = (unit.first + batch) * LANES, n_images = std::min<int64_t>(LANES, job.images - start);
            float *to = job.y + start * image + (unit.top * job.width + rest) * job.channels_out;
            int64_t c = 0;
            for (; c + LANES <= job.channels_out; c += LANES) {
                V v[LANES];
                for (int i = 0; i < LANES; i++)
                    v[i] = out[(c + i) * TILE + t];
                transpose(v);
                for (int i = 0; i < n_images; i++)
                    store(to + i * image + c, v[i]);
            }
            for (; c < job.channels_out; c++)
                for (int i = 0; i < n_images; i++)
                    to[i * image + c] = out[c * TILE + t][i];
        }
    }
}

// ---- the gradient of the weights: in each slot, the sums over its units for every pair of fields, tap and entry

// As the blocks of a kernel, but [row][tap and field, and entry], and not padded.
template <class H> int64_t slot_size(const Job &job) {
    return job.fields_out * job.fields_in * job.taps * (H::signs + (H::rows ? 4 : 0));
}

// The transforms of an orbit at so many positions: [row, of dimension 2, and position], or of two positions in a lane.
template <class H, class Read>
inline void transform_all(int64_t count, Read read, V *signs, int64_t sign_stride, V *pairs, int64_t pair_stride) {
    for (int64_t t = 0; t < count; t++) {
        V o[H::order];
        transform<H>([&](int h) { return read(h, t); }, o);
        for (int i = 0; i < H::signs; i++)
            signs[i * sign_stride + t] = o[i];
        for (int a = 0; a < H::rows; a++)
            for (int b = 0; b < 2; b++)
                pairs[b * pair_stride + a * count + t] = o[H::signs + 2 * a + b];
    }
}
template <class H, class Read>
inline void transform_all(int64_t count, Read read, Pairs *signs, int64_t sign_stride, Pairs *pairs, int64_t pair_stride) {
    const int64_t columns = blocks_of(count, 2);
    for (int64_t t = 0; t < columns; t++) {
        V o[H::order], other[H::order] = {};
        transform<H>([&](int h) { return read(h, 2 * t); }, o);
        if (2 * t + 1 < count)
            transform<H>([&](int h) { return read(h, 2 * t + 1); }, other);
        for (int i = 0; i < H::signs; i++)
            signs[i * sign_stride + t] = paired_anyhow(o[i], other[i]);
        for (int a = 0; a < H::rows; a++)
            for (int b = 0; b < 2; b++)
                pairs[b * pair_stride + a * columns + t] = paired_anyhow(o[H::signs + 2 * a + b], other[H::signs + 2 * a + b]);
    }
}

template <class H, class A> void correlate_unit(const Job &job, const Unit &unit, float *slot) {
    typedef typename A::Value Value;
    constexpr int order = H::order, rows = H::rows, signs = H::signs;
    constexpr int room = CHUNK / A::each + 1; // odd: a power of two apart, all would lie in one set of the cache
    const Scratch s(job, unit, job.half), plain(job, unit, 0);
    const int64_t n_positions = unit.batches * unit.rows * job.width, n = job.fields_in * job.taps, m = job.fields_out;
    const V *x = read_inputs(job, unit, s);
    V *dy = second_memory.at_least(plain.plane * job.channels_out);
    fill(job, unit, plain, 0, job.y, job.channels_out, dy);
    const std::vector<int64_t> steps = steps_in(job, s, order);
    positions.resize(n_positions);
    place(job, unit, s, job.half, positions.data());

    constexpr int pair_columns = rows ? rows : 1;
    auto *z = reinterpret_cast<Value *>(gathered_memory.at_least(PAIRS * (signs + 2 * pair_columns) * room));
    auto *a = reinterpret_cast<Value *>(product_memory.at_least(m * (signs + 2 * pair_columns) * room));
    Value *pair_z = z + signs * PAIRS * room, *pair_a = a + signs * m * room;
    for (int64_t first = 0; first < n_positions; first += CHUNK) {
        const int64_t count = std::min<int64_t>(CHUNK, n_positions - first), columns = blocks_of(count, A::each);
        const int32_t *at = positions.data() + first;
        for (int64_t field = 0; field < m; field++) {
            const V *plane[order];
            for (int h = 0; h < order; h++)
                plane[h] = dy + job.orbits_out[field * order + h] * plain.plane + first;
            transform_all<H>(
                count, [&](int h, int64_t t) { return plane[h][t]; }, a + field * room, m * room,
                pair_a + 2 * field * rows * room, rows * room);
        }
        for (int64_t k = 0; k < n; k += PAIRS) {
            const int64_t pairs = std::min<int64_t>(PAIRS, n - k);
            for (int64_t p = 0; p < pairs; p++) {
                const int64_t field = (k + p) / job.taps, tap = (k + p) % job.taps;
                const V *source[order];
                for (int h = 0; h < order; h++)
                    source[h] = x + job.orbits_in[field * order + h] * s.plane + steps[tap * order + h];
                transform_all<H>(
                    count, [&](int h, int64_t t) { return source[h][at[t]]; }, z + p * room, PAIRS * room,
                    pair_z + 2 * p * rows * room, rows * room);
            }
            for (int i = 0; i < signs; i++)
                correlate_all(a + i * m * room, m, z + i * PAIRS * room, pairs, columns, room, slot + i * m * n + k, n);
            if (rows)
                correlate_all(pair_a, 2 * m, pair_z, 2 * pairs, rows * columns, rows * room, slot + signs * m * n + 2 * k,
                              2 * n);
        }
    }
}

// From the sums of all slots to the gradient of the weights.
template <class H> void gather_slots(const Job &job, float *slots) {
    constexpr int order = H::order, signs = H::signs;
    const int64_t n = job.fields_in * job.taps, m = job.fields_out, size = slot_size<H>(job);
    for (int slot = 1; slot < SLOTS; slot++)
        for (int64_t i = 0; i < size; i++)
            slots[i] += slots[slot * size + i];
    const Entries entries(job, order);
    for (int64_t row = 0; row < m; row++)
        for (int64_t first = 0; first < n; first += LANES) {
            const int64_t count = std::min<int64_t>(LANES, n - first);
            V o[8] = {}, orbit[8];
            for (int i = 0; i < signs; i++)
                o[i] = some(slots + (i * m + row) * n + first, count) * (1.0f / order);
            for (int64_t j = 0; H::rows && j < count; j++) {
                float e[2][2];
                for (int c = 0; c < 2; c++)
                    for (int b = 0; b < 2; b++)
                        e[c][b] = slots[(signs * m + 4 * row + 2 * c) * n + 2 * (first + j) + b] * (2.0f / order);
                if (H::rows == 2) {
                    o[4][j] = e[0][0];
                    o[5][j] = e[0][1];
                    o[6][j] = e[1][0];
                    o[7][j] = e[1][1];
                } else {
                    o[2][j] = e[0][0] + e[1][1];
                    o[3][j] = e[0][1] - e[1][0];
                }
            }
            H::inverse(o, orbit);
            for (int64_t j = 0; j < count; j++)
                for (int h = 0; h < order; h++)
                    job.gradient[entries(row, first + j, h)] = orbit[h][j];
        }
}

// ---- the work of each thread

template <class H, class A> void convolve_worker(void *data) {
    Job &job = *static_cast<Job *>(data);
    try {
        const Plan plan(job);
        for (int64_t i; (i = job.threads.next++) < plan.n;)
            convolve_unit<H, A>(job, plan.unit(job, i));
    } catch (const std::bad_alloc &) {
        job.threads.failed = 1;
    }
}

template <class H, class A> void correlate_worker(void *data) {
    Job &job = *static_cast<Job *>(data);
    try {
        const Plan plan(job);
        for (int64_t slot; (slot = job.threads.next++) < SLOTS;)
            for (int64_t i = slot; i < plan.n; i += SLOTS)
                correlate_unit<H, A>(job, plan.unit(job, i), job.slots + slot * slot_size<H>(job));
    } catch (const std::bad_alloc &) {
        job.threads.failed = 1;
    }
}

template <class H, class A> int convolve(Job &job, const float *weight) {
    std::vector<typename A::Weight> blocks(blocks_size<H, A>(job.orbits()));
    const Entries entries(job, H::order);
    const auto read = [&](int64_t orbit, int64_t k, int64_t h) { return weight[entries(orbit, k, h)]; };
    pack<H, A>(job.orbits(), read, blocks.data());
    job.blocks = blocks.data();
    run(job.threads, convolve_worker<H, A>, &job);
    return job.threads.failed;
}
template <class H> int convolve(Job &job, const float *weight) {
    return job.reduced ? convolve<H, Reduced>(job, weight) : convolve<H, Exact>(job, weight);
}

template <class H> int correlate(Job &job) {
    std::vector<float> slots(SLOTS * slot_size<H>(job));
    job.slots = slots.data();
    run(job.threads, job.reduced ? correlate_worker<H, Reduced> : correlate_worker<H, Exact>, &job);
    if (!job.threads.failed)
        gather_slots<H>(job, slots.data());
    return job.threads.failed;
}

} // namespace

extern "C" {

// y = the convolution of x with the kernel of these weights; 0, or 1 if there is no memory
int skequinas_convolve(Job *job, const float *weight) {
    return guarded([&] {
        switch (job->kind) {
        case 0: return convolve<Two>(*job, weight);
        case 1: return convolve<Four>(*job, weight);
        case 2: return convolve<Turns>(*job, weight);
        default: return convolve<Eight>(*job, weight);
        }
    });
}

// gradient = that of the weights, given x and the gradient of y
int skequinas_correlate(Job *job) {
    return guarded([&] {
        switch (job->kind) {
        case 0: return correlate<Two>(*job);
        case 1: return correlate<Four>(*job);
        case 2: return correlate<Turns>(*job);
        default: return correlate<Eight>(*job);
        }
    });
}

int skequinas_layout() { return LAYOUT; }

// Whether jobs may be reduced: this processor knows the instructions that they were compiled to.
int skequinas_reduces() {
#ifdef HALVES
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
#else
    return 1;
#endif
}
}
