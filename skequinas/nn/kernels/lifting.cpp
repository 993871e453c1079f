// The first layer: a convolution of images of few channels, batch norm of orbits, the rectifier and halving.
//
// Its maps are the largest of all and quickly computed. So they are never written, but computed again in each of two
// passes forward and two back, a few positions at a time, for all channels that registers hold. There is no gradient by
// the images. Images lie as (images, inputs, height, width), what comes out as (images, height, width, channels).

#include "statistics.h"
#include "vectors.h"

namespace {

constexpr int POSITIONS = 4; // that are worked on at once: a block of 2x2 where blocks are averaged
constexpr int WIDTH = LANES == 16 ? 4 : 3; // vectors of channels, as many as registers hold with these
constexpr int TAPS = 4;      // of whose gradients sums are kept at once

struct Job {
    int64_t images, height, width, inputs;
    int64_t channels, order; // of the outputs, and those of a field
    int64_t size;            // of the kernel
    int64_t halve;           // whether blocks of 2x2 positions are averaged
    double eps;
    const float *x;             // (images, inputs, height, width)
    const float *kernel;        // (channels, inputs, size, size)
    const float *offset;        // (channels,): is added to the convolution; or null
    const float *weight, *bias; // (fields,)
    float *y;                   // (images, height, width, channels), or half as high and wide
    float *mean, *variance;     // (fields,)
    float *channel_means;       // (channels,), with the offset
    float *slope, *shift;       // (channels,): the affine map of the convolution
    const float *gradient;      // that of y
    float *dkernel, *dweight, *dbias, *doffset;
    Threads threads;
    double *sums;        // (PARTS, 2, channels)
    float *kernel_sums;  // (PARTS, taps, padded channels): of the gradient by the kernel
    const float *packed; // (taps, padded channels): the kernel
    const int64_t *reads; // (taps,): where they read, from the position of the first
    const float *pivot, *level, *along; // (channels,)
};

inline int64_t padded(const Job &job) { return blocks_of(job.channels, LANES) * LANES; }
inline int64_t taps(const Job &job) { return job.inputs * job.size * job.size; }
inline int64_t border(const Job &job) { return job.size / 2; }
inline int64_t line(const Job &job) { return job.width + 2 * border(job); }
inline int64_t part(const Job &job, int64_t number) { return job.images * number / PARTS; }

thread_local Memory image_memory, row_memory;

// An image with a border of zeros.
const float *bordered(const Job &job, int64_t number) {
    const int64_t plane = line(job) * (job.height + 2 * border(job));
    float *to = reinterpret_cast<float *>(image_memory.at_least(blocks_of(job.inputs * plane, LANES)));
    std::fill(to, to + job.inputs * plane, 0.0f);
    const float *from = job.x + number * job.inputs * job.height * job.width;
    for (int64_t input = 0; input < job.inputs; input++)
        for (int64_t row = 0; row < job.height; row++, from += job.width)
            std::copy(from, from + job.width, to + input * plane + (row + border(job)) * line(job) + border(job));
    return to;
}

inline void put(float *to, V v, int64_t n) {
    if (n >= LANES)
        store(to, v);
    else
        for (int64_t i = 0; i < n; i++)
            to[i] = v[i];
}

template <int N> struct Channels { // N vectors of channels from one on
    int64_t first, n[N];
    Channels(const Job &job, int64_t from) : first(from) {
        for (int v = 0; v < N; v++)
            n[v] = job.channels - from - v * LANES;
    }
    void read(const float *from, V *to) const {
        for (int v = 0; v < N; v++)
            to[v] = some(from + first + v * LANES, n[v]);
    }
    void write(const V *from, float *to) const {
        for (int v = 0; v < N; v++)
            put(to + first + v * LANES, from[v], n[v]);
    }
};

// The positions that are worked on at once, as places in the bordered image; the last ones may be there twice.
struct Place {
    int64_t at[POSITIONS], count;
    Place(const Job &job, int64_t row, int64_t column) : count(POSITIONS) {
        if (!job.halve)
            count = std::min<int64_t>(POSITIONS, job.width - column);
        for (int64_t p = 0; p < POSITIONS; p++) {
            const int64_t down = job.halve ? p / 2 : 0, right = job.halve ? p % 2 : std::min(p, count - 1);
            at[p] = (row + down) * line(job) + column + right;
        }
    }
};
inline int64_t step_down(const Job &job) { return job.halve ? 2 : 1; }
inline int64_t step_right(const Job &job) { return job.halve ? 2 : POSITIONS; }

// Where the outputs of a position begin.
inline int64_t place_of(const Job &job, int64_t number, int64_t row, int64_t column) {
    const int64_t step = step_down(job);
    return ((number * (job.height / step) + row / step) * (job.width / step) + column / step) * job.channels;
}

template <int N> inline void convolve(const Job &job, const float *image, const int64_t *at, int64_t channel, V (*sum)[N]) {
    const int64_t n_taps = taps(job), stride = padded(job);
    for (int p = 0; p < POSITIONS; p++)
        for (int v = 0; v < N; v++)
            sum[p][v] = V{};
    const float *own = job.packed + channel;
    for (int64_t t = 0; t < n_taps; t++, own += stride) {
        const float *from = image + job.reads[t];
        V w[N];
        for (int v = 0; v < N; v++)
            w[v] = load(own + v * LANES);
#pragma GCC unroll 4
        for (int p = 0; p < POSITIONS; p++) {
            V each = from[at[p]] - V{};
#pragma GCC unroll 4
            for (int v = 0; v < N; v++)
                sum[p][v] += each * w[v];
        }
    }
}

// The gradient of the affine map at some positions, for the channels whose slope, shift and sums are given.
template <int N>
inline void rectified(const Job &job, const Channels<N> &channels, int64_t number, int64_t row, int64_t column,
                      int64_t count, const V *slope, const V *shift, const V (*sum)[N], V (*g)[N]) {
    const float *from = job.gradient + place_of(job, number, row, column);
    V own[N];
    channels.read(from, own);
    for (int64_t p = 0; p < count; p++) {
        if (!job.halve && p)
            channels.read(from + p * job.channels, own);
        for (int v = 0; v < N; v++) {
            const V map = slope[v] * sum[p][v] + shift[v];
            g[p][v] = map <= 0 ? V{} : job.halve ? own[v] * 0.25f : own[v];
        }
    }
}

// Add the sums of N vectors to those of a part.
template <int N> void add(const Job &job, const Channels<N> &channels, int64_t number, const V *first, const V *second) {
    double *total = job.sums + 2 * job.channels * number + channels.first;
    for (int v = 0; v < N; v++)
        for (int64_t i = 0; i < std::min<int64_t>(LANES, channels.n[v]); i++) {
            total[v * LANES + i] += first[v][i];
            total[job.channels + v * LANES + i] += second[v][i];
        }
}

struct Sums { // of the convolution and of its squares, about the pivot
    template <int N> static void row(const Job &job, const Channels<N> &channels, int64_t number, int64_t, const float *image,
                                     int64_t row) {
        V first[N] = {}, second[N] = {}, pivot[N], sum[POSITIONS][N];
        channels.read(job.pivot, pivot);
        for (int64_t column = 0; column < job.width; column += step_right(job)) {
            const Place place(job, row, column);
            convolve<N>(job, image, place.at, channels.first, sum);
            for (int64_t p = 0; p < place.count; p++)
                for (int v = 0; v < N; v++) {
                    const V from = sum[p][v] - pivot[v];
                    first[v] += from;
                    second[v] += from * from;
                }
        }
        add<N>(job, channels, number, first, second);
    }
};

struct Outputs { // what is not a number stays so, here and above
    template <int N> static void row(const Job &job, const Channels<N> &channels, int64_t, int64_t number, const float *image,
                                     int64_t row) {
        V slope[N], shift[N], sum[POSITIONS][N];
        channels.read(job.slope, slope);
        channels.read(job.shift, shift);
        for (int64_t column = 0; column < job.width; column += step_right(job)) {
            const Place place(job, row, column);
            convolve<N>(job, image, place.at, channels.first, sum);
            float *to = job.y + place_of(job, number, row, column);
            for (int64_t p = 0; p < place.count; p++) {
                for (int v = 0; v < N; v++) {
                    sum[p][v] = slope[v] * sum[p][v] + shift[v];
                    sum[p][v] = sum[p][v] < 0 ? V{} : sum[p][v];
                }
                if (!job.halve)
                    channels.write(sum[p], to + p * job.channels);
            }
            if (job.halve) {
                for (int v = 0; v < N; v++)
                    sum[0][v] = ((sum[0][v] + sum[1][v]) + (sum[2][v] + sum[3][v])) * 0.25f;
                channels.write(sum[0], to);
            }
        }
    }
};

struct GradientSums { // of the gradient, and of it times the convolution about its centre
    template <int N> static void row(const Job &job, const Channels<N> &channels, int64_t part, int64_t number,
                                     const float *image, int64_t row) {
        V first[N] = {}, second[N] = {}, pivot[N], slope[N], shift[N], sum[POSITIONS][N], g[POSITIONS][N];
        channels.read(job.pivot, pivot);
        channels.read(job.slope, slope);
        channels.read(job.shift, shift);
        for (int64_t column = 0; column < job.width; column += step_right(job)) {
            const Place place(job, row, column);
            convolve<N>(job, image, place.at, channels.first, sum);
            rectified<N>(job, channels, number, row, column, place.count, slope, shift, sum, g);
            for (int64_t p = 0; p < place.count; p++)
                for (int v = 0; v < N; v++) {
                    first[v] += g[p][v];
                    second[v] += g[p][v] * (sum[p][v] - pivot[v]);
                }
        }
        add<N>(job, channels, part, first, second);
    }
};

// Sums for T taps over the positions of a row, whose gradients of the convolution are given.
template <int N, int T>
inline void add_taps(const Job &job, const float *image, const V *d, const int64_t *at, int64_t n, int64_t tap, float *to) {
    V sum[T][N] = {};
    const float *from[T];
    for (int t = 0; t < T; t++)
        from[t] = image + job.reads[tap + t];
    for (int64_t i = 0; i < n; i++, d += N)
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) {
            V each = from[t][at[i]] - V{};
#pragma GCC unroll 4
            for (int v = 0; v < N; v++)
                sum[t][v] += each * d[v];
        }
    for (int t = 0; t < T; t++, to += padded(job))
        for (int v = 0; v < N; v++)
            store(to + v * LANES, load(to + v * LANES) + sum[t][v]);
}

struct Gradients { // by the kernel
    template <int N> static void row(const Job &job, const Channels<N> &channels, int64_t part, int64_t number,
                                     const float *image, int64_t row) {
        V slope[N], shift[N], level[N], along[N], sum[POSITIONS][N], g[POSITIONS][N];
        channels.read(job.slope, slope);
        channels.read(job.shift, shift);
        channels.read(job.level, level);
        channels.read(job.along, along);
        const int64_t most = job.width * step_down(job);
        V *d = row_memory.at_least(most * N + blocks_of(most * sizeof(int64_t), sizeof(V)));
        int64_t *at = reinterpret_cast<int64_t *>(d + most * N), n = 0;
        for (int64_t column = 0; column < job.width; column += step_right(job)) {
            const Place place(job, row, column);
            convolve<N>(job, image, place.at, channels.first, sum);
            rectified<N>(job, channels, number, row, column, place.count, slope, shift, sum, g);
            for (int64_t p = 0; p < place.count; p++, n++) {
                at[n] = place.at[p];
                for (int v = 0; v < N; v++)
                    d[n * N + v] = slope[v] * g[p][v] + along[v] * sum[p][v] + level[v];
            }
        }
        float *to = job.kernel_sums + part * taps(job) * padded(job) + channels.first;
        for (int64_t t = 0; t < taps(job); t += TAPS) {
            float *own = to + t * padded(job);
            switch (std::min<int64_t>(TAPS, taps(job) - t)) {
            case 1: add_taps<N, 1>(job, image, d, at, n, t, own); break;
            case 2: add_taps<N, 2>(job, image, d, at, n, t, own); break;
            case 3: add_taps<N, 3>(job, image, d, at, n, t, own); break;
            default: add_taps<N, TAPS>(job, image, d, at, n, t, own);
            }
        }
    }
};

template <class Pass, int N> void over_rows(const Job &job, int64_t channel, int64_t part, int64_t number, const float *image) {
    const Channels<N> channels(job, channel);
    for (int64_t row = 0; row < job.height; row += step_down(job))
        Pass::template row<N>(job, channels, part, number, image, row);
}

template <class Pass> void work(void *data) {
    Job &job = *static_cast<Job *>(data);
    noted(job.threads, [&] {
        for (int64_t number; (number = job.threads.next++) < PARTS;)
            for (int64_t i = part(job, number); i < part(job, number + 1); i++) {
                const float *image = bordered(job, i);
                for (int64_t c = 0; c < job.channels; c += WIDTH * LANES)
                    switch (std::min<int64_t>(WIDTH, (padded(job) - c) / LANES)) {
                    case 1: over_rows<Pass, 1>(job, c, number, i, image); break;
                    case 2: over_rows<Pass, 2>(job, c, number, i, image); break;
                    case 3: over_rows<Pass, 3>(job, c, number, i, image); break;
                    default: over_rows<Pass, WIDTH>(job, c, number, i, image);
                    }
            }
    });
}

struct Prepared { // the tables of a job
    std::vector<float> packed, channels;
    std::vector<int64_t> reads;
    std::vector<double> sums;
    explicit Prepared(Job &job) : packed(taps(job) * padded(job)), channels(3 * job.channels), reads(taps(job)) {
        const int64_t size = job.size, plane = line(job) * (job.height + 2 * border(job));
        for (int64_t t = 0; t < taps(job); t++) {
            reads[t] = t / (size * size) * plane + t / size % size * line(job) + t % size;
            for (int64_t c = 0; c < job.channels; c++)
                packed[t * padded(job) + c] = job.kernel[c * taps(job) + t];
        }
        job.packed = packed.data();
        job.reads = reads.data();
        job.pivot = channels.data();
    }
    void summed(Job &job) {
        sums.assign(PARTS * 2 * job.channels, 0.0);
        job.sums = sums.data();
    }
};

} // namespace

extern "C" {

// y = the rectified batch norm of the convolution, and its statistics. 0, or 1 if there is no memory.
int skequinas_lift(Job *job) {
    return guarded([&] {
        Prepared prepared(*job);
        prepared.summed(*job);
        const float *image = bordered(*job, 0);
        const Place place(*job, job->height / 2 / 2 * 2, 0);
        for (int64_t c = 0; c < job->channels; c += LANES) { // some value of each channel
            V sum[POSITIONS][1];
            convolve<1>(*job, image, place.at, c, sum);
            put(prepared.channels.data() + c, sum[0][0], job->channels - c);
        }
        run(job->threads, work<Sums>, job);
        if (job->threads.failed)
            return 1;
        summarise(*job, job->pivot);
        run(job->threads, work<Outputs>, job);
        return int(job->threads.failed);
    });
}

// y, with the affine map that is given.
int skequinas_lift_at_rest(Job *job) {
    return guarded([&] {
        Prepared prepared(*job);
        run(job->threads, work<Outputs>, job);
        return int(job->threads.failed);
    });
}

// All gradients, given that of y.
int skequinas_lift_backward(Job *job) {
    return guarded([&] {
        Prepared prepared(*job);
        prepared.summed(*job);
        float *pivot = prepared.channels.data(), *level = pivot + job->channels, *along = level + job->channels;
        job->level = level;
        job->along = along;
        centre(*job, pivot);
        run(job->threads, work<GradientSums>, job);
        if (job->threads.failed)
            return 1;
        summarise_gradients(*job, level, along);
        const int64_t n = taps(*job) * padded(*job);
        std::vector<float> kernel_sums(PARTS * n);
        job->kernel_sums = kernel_sums.data();
        run(job->threads, work<Gradients>, job);
        for (int64_t t = 0; t < taps(*job); t++)
            for (int64_t c = 0; c < job->channels; c++) {
                double sum = 0;
                for (int64_t number = 0; number < PARTS; number++)
                    sum += kernel_sums[number * n + t * padded(*job) + c];
                job->dkernel[c * taps(*job) + t] = float(sum);
            }
        return int(job->threads.failed);
    });
}
}
