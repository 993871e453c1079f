// A stack of blocks at rest, from images to statistics of the last maps: convolutions, each with an affine map of its
// outputs, a shortcut and the rectifier, and halving in between.
//
// A few images pass through all layers before the next ones begin, so that maps stay in the caches of a processor. What
// lies in the lanes of a vector are neighbouring positions of images that are worked on `together`: a plane is
// [row][column][image], and a moved tap reads at another place of it, whatever the number of images. Rows are followed
// by zeros, which are the border at their end and at the beginning of the next. So maps are never copied or transposed
// between layers. What a position gives does not depend on what else is in its vector.

#include "orbits.h"
#include "threads.h"

#include <algorithm>
#include <cstring>

#ifndef DIRECT
#define DIRECT (LANES == 16 ? 2048 : DEPTH) // products for an output, up to which values need not be gathered
#endif

namespace {

struct One { // no symmetry
    static constexpr int order = 1, signs = 1, rows = 0;
    static inline void forward(const V *z, V *o) { o[0] = z[0]; }
    static inline void inverse(const V *y, V *o) { o[0] = y[0]; }
};

// What is done, as Python says it.

struct Part { // a convolution that gives some of a layer's channels
    int64_t kind; // 0 C2 or D1, 1 D2, 2 C4, 3 D4, 4 none
    Orbits orbits;
    const int32_t *orbits_in, *orbits_out; // (fields, order): channels
    const int32_t *steps;                  // (taps, order, 2): from a position to where a moved tap reads, down and right
    const float *kernel;                   // (fields_out, fields_in, taps, order)
    const float *level;                    // (fields_out,): is added to the outputs
    void *blocks;                          // the kernel, packed
    int64_t reduced;                       // whether what is multiplied is rounded
};

struct Layer {
    int64_t channels, half; // of the outputs; half of the side of the kernel, rounded down
    int64_t shortcut, shortcut_channels; // over how many layers a shortcut reaches that ends here, or 0
    int64_t halve;
    int64_t n_parts;
    const Part *parts;
};

struct Job {
    int64_t images, channels, height, width; // of the inputs
    int64_t together;                        // images: a power of two, at most LANES; 0: as many as suits them
    int64_t maximum;                         // whether the largest value of a map is asked for, beside the mean
    int64_t n_layers;
    const Layer *layers;
    const float *x; // (images, channels, height, width)
    float *y;       // (images, channels): of each of the last maps the mean; or twice as many, with the largest value
    Threads threads;
    const struct Prepared *prepared;
};

// Call with(H, A) for the kind of a part.
template <class A, class F> auto by_kind(const Part &part, F with) {
    switch (part.kind) {
    case 0: return with(Two(), A());
    case 1: return with(Four(), A());
    case 2: return with(Turns(), A());
    case 3: return with(Eight(), A());
    default: return with(One(), A());
    }
}
template <class F> auto by_kind(const Part &part, F with) {
    return part.reduced ? by_kind<Reduced>(part, with) : by_kind<Exact>(part, with);
}

// Whether values are read where they are, and not gathered: there is nothing to transform or to round, and, with fewer
// registers, little that all rows read again.
inline bool is_direct(const Part &part) {
    return part.kind > 3 && !part.reduced && part.orbits.fields_in * part.orbits.taps <= DIRECT;
}

// ---- where maps lie

// The planes of the maps between two halvings.
struct Stage {
    int64_t height, width, border, row; // in positions
    int64_t origin, plane;              // in values
    Stage(const Job &job, int64_t height, int64_t width, int64_t border)
        : height(height), width(width), border(border), row(width + border), origin((border * row + border) * job.together) {
        const int64_t n = origin + ((height + border) * row + border) * job.together + LANES;
        plane = (blocks_of(n, LANES) | 1) * LANES; // not a power of two apart
    }
};

// A band of rows whose outputs are computed before they are averaged, or all rows.
struct Band {
    int64_t top, rows;
    size_t first, last; // vectors
};

typedef int32_t Mask __attribute__((vector_size(LANES * 4)));

constexpr int64_t MOST = 64 * 1024; // values of a band, about: a quarter of a megabyte

// A layer, its inputs' stage, and the vectors of positions of its outputs.
struct Step {
    int64_t stage;
    int64_t from, to, shortcut; // buffers
    bool halve, at_once; // whether it halves; and then without writing what is averaged
    std::vector<Band> bands;
    std::vector<int32_t> at;                 // from the beginning of a plane, in values
    std::vector<Mask> masks;                 // of what is a position, and no border
    std::vector<std::vector<int64_t>> steps; // of each part, in values
};

struct Prepared {
    std::vector<Stage> stages;
    std::vector<int64_t> buffers; // where each begins, in vectors
    std::vector<Step> steps;
    int64_t size = 0, band = 0, tile = 0, products = 0; // vectors
    int64_t last_stage = 0, last_buffer = 0;

    explicit Prepared(const Job &job) {
        add_stages(job);
        int64_t stage = 0, channels = job.channels;
        std::vector<int64_t> inputs(job.n_layers); // the buffers that layers read
        std::vector<int64_t> most(3 * stages.size()); // channels that each buffer holds
        int64_t current = 0;
        for (int64_t i = 0; i < job.n_layers; i++) {
            const Layer &layer = job.layers[i];
            const bool leaves = layer.halve;
            inputs[i] = current;
            most[current] = std::max(most[current], channels);
            Step step{stage, current, 0, layer.shortcut ? inputs[i - layer.shortcut + 1] : -1, leaves, false, {}, {}, {}, {}};
            const Stage &s = stages[stage];
            step.at_once = leaves && s.height % 2 == 0 && s.width % 2 == 0 && job.together == LANES && !layer.shortcut &&
                           layer.n_parts == 1 && is_direct(*layer.parts);
            // another buffer than those that are still read; the shortcut that ends here is read where it is written
            int64_t to = leaves ? 3 * (stage + 1) : 3 * stage;
            for (; !leaves && (to == current || is_kept(job, i, to, inputs)); to++)
                ;
            step.to = current = to;
            channels = layer.channels;
            most[to] = std::max(most[to], channels);
            if (!step.at_once)
                add_positions(job, layer, step);
            for (int64_t p = 0; p < layer.n_parts; p++)
                add_part(job, layer.parts[p], step);
            steps.push_back(std::move(step));
            stage += leaves;
        }
        last_stage = stage;
        last_buffer = current;
        for (size_t b = 0; b < most.size(); b++) {
            buffers.push_back(size);
            size += most[b] * stages[b / 3].plane / LANES;
        }
    }

  private:
    // Whether a buffer is read by a shortcut that ends behind layer i.
    static bool is_kept(const Job &job, int64_t i, int64_t buffer, const std::vector<int64_t> &inputs) {
        for (int64_t j = i + 1; j < job.n_layers; j++) {
            const int64_t from = j - job.layers[j].shortcut + 1;
            if (job.layers[j].shortcut && from <= i && inputs[from] == buffer)
                return true;
        }
        return false;
    }

    void add_stages(const Job &job) {
        int64_t height = job.height, width = job.width, border = 0;
        for (int64_t i = 0; i < job.n_layers; i++) {
            border = std::max(border, job.layers[i].half);
            if (job.layers[i].halve) {
                stages.emplace_back(job, height, width, border);
                height = blocks_of(height, 2);
                width = blocks_of(width, 2);
                border = 0;
            }
        }
        stages.emplace_back(job, height, width, border);
    }

    void add_positions(const Job &job, const Layer &layer, Step &step) {
        const Stage &s = stages[step.stage];
        const int64_t each = LANES / job.together;
        int64_t rows = s.height;
        if (step.halve && s.height % 2 == 0) // windows of rows do not overlap
            rows = std::min(std::max<int64_t>(MOST / (layer.channels * s.row * job.together) & ~1, 2), s.height);
        for (int64_t top = 0; top < s.height; top += rows) {
            const int64_t own = std::min(rows, s.height - top);
            Band band{top, own, step.at.size(), 0};
            for (int64_t position = 0; position < own * s.row;) {
                if (position % s.row >= s.width) {
                    position++;
                    continue;
                }
                Mask mask{};
                for (int64_t lane = 0; lane < LANES; lane++) {
                    const int64_t own_position = position + lane / job.together;
                    mask[lane] = own_position < own * s.row && own_position % s.row < s.width ? -1 : 0;
                }
                step.at.push_back(int32_t(s.origin + (top * s.row + position) * job.together));
                step.masks.push_back(mask);
                position += each;
            }
            band.last = step.at.size();
            step.bands.push_back(band);
        }
        if (step.halve)
            band = std::max(band, layer.channels * (blocks_of(rows * s.row * job.together, LANES) + 1));
    }

    void add_part(const Job &job, const Part &part, Step &step) {
        const Stage &s = stages[step.stage];
        by_kind(part, [&](auto h, auto a) {
            typedef decltype(h) H;
            typedef decltype(a) A;
            std::vector<int64_t> found(part.orbits.taps * H::order);
            for (size_t i = 0; i < found.size(); i++)
                found[i] = (part.steps[2 * i] * s.row + part.steps[2 * i + 1]) * job.together;
            if (is_direct(part)) { // of each input and tap
                std::vector<int64_t> each;
                for (int64_t field = 0; field < part.orbits.fields_in; field++)
                    for (const int64_t own : found)
                        each.push_back(part.orbits_in[field] * s.plane + own);
                found = std::move(each);
            } else {
                tile = std::max(tile, Tile<H, A>::size(part.orbits));
                products = std::max(products, Tile<H, A>::products_size(part.orbits));
            }
            step.steps.push_back(std::move(found));
        });
    }
};

// How many images are worked on together: whole vectors of them, unless there are few, or large ones whose maps leave
// the caches.
int64_t suited(const Job &job) {
    constexpr double MOST_INPUTS = 256e3, MOST_MAPS = 1e6; // values: a megabyte, and four
    double inputs = double(job.channels * job.height * job.width), maps = 0, channels = double(job.channels);
    int64_t height = job.height, width = job.width;
    for (int64_t i = 0; i < job.n_layers; i++) {
        const Layer &layer = job.layers[i];
        if (!layer.halve)
            maps = std::max(maps, (channels + double(layer.channels)) * double(height * width));
        height = layer.halve ? blocks_of(height, 2) : height;
        width = layer.halve ? blocks_of(width, 2) : width;
        channels = double(layer.channels);
    }
    int64_t found = LANES;
    const int64_t each = blocks_of(job.images, job.threads.number);
    while (found > 1 && (found / 2 >= each || inputs * found > MOST_INPUTS || maps * found > MOST_MAPS))
        found /= 2;
    return found;
}

// ---- a few images

thread_local Memory maps_memory, band_memory, tile_memory, products_memory;

// The images that begin with number `first`, as planes.
void read_images(const Job &job, const Stage &s, int64_t first, float *to) {
    const int64_t n = std::min(job.together, job.images - first), pixels = s.height * s.width;
    for (int64_t c = 0; c < job.channels; c++)
        for (int64_t i = 0; i < job.together; i++) {
            const float *from = job.x + ((first + i) * job.channels + c) * pixels;
            for (int64_t row = 0; row < s.height; row++) {
                float *own = to + c * s.plane + s.origin + row * s.row * job.together + i;
                for (int64_t column = 0; column < s.width; column++)
                    own[column * job.together] = i < n ? from[row * s.width + column] : 0.0f;
            }
        }
}

// What a band of outputs goes to: planes, from the beginning of a plane of the inputs' stage on.
struct Outputs {
    float *at;
    int64_t plane;
    const float *shortcut; // planes as those of the inputs, or null
    int64_t shortcut_channels;
};

// What a position gives, of a channel: with the shortcut, and rectified. What is not a number stays so.
inline V rectified(V v, const Outputs &to, const Stage &s, int64_t channel, int32_t at) {
    if (channel < to.shortcut_channels)
        v += load(to.shortcut + channel * s.plane + at);
    return v < 0 ? V{} : v;
}
inline void put(V v, const Outputs &to, int64_t channel, int32_t at, Mask mask) {
    store(to.at + channel * to.plane + at, (V)((Mask)v & mask));
}

template <class H, class A>
void convolve(const Part &part, const Stage &s, const Step &step, const Band &band, const int64_t *steps, const float *x,
              const Outputs &to) {
    const Tile<H, A> tile(part.orbits, tile_memory.data, products_memory.data);
    const int64_t n = band.last - band.first, tiles = blocks_of(n, TILE);
    for (int64_t number = 0; number < tiles; number++) { // of about the same size
        const int64_t first = band.first + n * number / tiles, count = band.first + n * (number + 1) / tiles - first;
        const int32_t *at = step.at.data() + first;
        multiply_tile(tile, part.orbits, part.blocks, x, s.plane, part.orbits_in, steps, at, count);
        for (int64_t field = 0; field < part.orbits.fields_out; field++) {
            const int32_t *channel = part.orbits_out + field * H::order;
            for (int64_t t = 0; t < count; t++) {
                V orbit[H::order];
                restore(tile, field, t, count, part.level[field], orbit);
                for (int h = 0; h < H::order; h++)
                    put(rectified(orbit[h], to, s, channel[h], at[t]), to, channel[h], at[t], step.masks[first + t]);
            }
        }
    }
}

// R rows of products at N positions, whose values are read where they are.
template <int R, int N>
inline void multiply_direct(const float *w, const float *const *x, const int64_t *steps, int64_t n, V (*sum)[N]) {
    for (int r = 0; r < R; r++)
        for (int c = 0; c < N; c++)
            sum[r][c] = V{};
    for (int64_t k = 0; k < n; k++, w += ROWS) {
        V column[N];
        for (int c = 0; c < N; c++)
            column[c] = load(x[c] + steps[k]);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            const V each = everywhere(w[r]);
#pragma GCC unroll 8
            for (int c = 0; c < N; c++)
                sum[r][c] += each * column[c];
        }
    }
}

template <int N>
void convolve_direct(const Part &part, const Stage &s, const int32_t *at, const Mask *masks, const int64_t *steps,
                     const float *x, const Outputs &to) {
    const int64_t n = part.orbits.fields_in * part.orbits.taps, n_out = part.orbits.fields_out;
    const float *from[N];
    for (int c = 0; c < N; c++)
        from[c] = x + at[c];
    for (int64_t row = 0; row < n_out; row += ROWS) {
        V sum[ROWS][N];
        multiply_direct<ROWS, N>(static_cast<const float *>(part.blocks) + row * n, from, steps, n, sum);
        for (int64_t r = 0; r < std::min<int64_t>(ROWS, n_out - row); r++) {
            const int64_t channel = part.orbits_out[row + r];
            for (int c = 0; c < N; c++)
                put(rectified(sum[r][c] + part.level[row + r], to, s, channel, at[c]), to, channel, at[c], masks[c]);
        }
    }
}

void convolve_direct(const Part &part, const Stage &s, const Step &step, const Band &band, const int64_t *steps,
                     const float *x, const Outputs &to) {
    for (size_t first = band.first; first < band.last; first += COLUMNS) {
        const int32_t *at = step.at.data() + first;
        const Mask *masks = step.masks.data() + first;
        switch (std::min<size_t>(COLUMNS, band.last - first)) {
        case 1: convolve_direct<1>(part, s, at, masks, steps, x, to); break;
        case 2: convolve_direct<2>(part, s, at, masks, steps, x, to); break;
        case 3: convolve_direct<3>(part, s, at, masks, steps, x, to); break;
#if LANES == 16
        case 4: convolve_direct<4>(part, s, at, masks, steps, x, to); break;
        case 5: convolve_direct<5>(part, s, at, masks, steps, x, to); break;
#endif
        default: convolve_direct<COLUMNS>(part, s, at, masks, steps, x, to);
        }
    }
}

// The same with means over blocks of 2x2 positions, each in a vector of its own.
void convolve_halved(const Part &part, const Stage &s, const Stage &next, const int64_t *steps, const float *x, float *to) {
    constexpr int EACH = LANES == 16 ? ROWS : ROWS / 2; // rows, as many as registers hold with four positions
    const int64_t n = part.orbits.fields_in * part.orbits.taps, n_out = part.orbits.fields_out;
    for (int64_t row = 0; row < next.height; row++)
        for (int64_t column = 0; column < next.width; column++) {
            const float *own = x + s.origin + (2 * row * s.row + 2 * column) * LANES;
            const float *from[4] = {own, own + LANES, own + s.row * LANES, own + (s.row + 1) * LANES};
            float *out = to + next.origin + (row * next.row + column) * LANES;
            for (int64_t o = 0; o < n_out; o += EACH) {
                V sum[EACH][4];
                const float *w = static_cast<const float *>(part.blocks) + o / ROWS * ROWS * n + o % ROWS;
                multiply_direct<EACH, 4>(w, from, steps, n, sum);
                for (int64_t r = 0; r < std::min<int64_t>(EACH, n_out - o); r++) {
                    for (int c = 0; c < 4; c++) {
                        sum[r][c] += part.level[o + r];
                        sum[r][c] = sum[r][c] < 0 ? V{} : sum[r][c];
                    }
                    store(out + part.orbits_out[o + r] * next.plane,
                          ((sum[r][0] + sum[r][2]) + (sum[r][1] + sum[r][3])) * 0.25f);
                }
            }
        }
}

// The means of windows of a band, which begins at `from` in each plane, to the next stage's planes.
template <int N>
void average(const Stage &s, const Stage &next, const Band &band, int64_t channels, const float *from, int64_t plane,
             float *to) {
    const bool tall = s.height % 2, wide = s.width % 2; // windows of three, which overlap
    float *sums = reinterpret_cast<float *>(tile_memory.at_least(blocks_of(s.row * N, LANES)));
    for (int64_t c = 0; c < channels; c++)
        for (int64_t row = band.top / 2; 2 * row < band.top + band.rows; row++) {
            const int64_t first = std::max<int64_t>(2 * row - tall, 0), last = std::min(2 * row + 1, s.height - 1);
            const float *own = from + c * plane + (first - band.top) * s.row * N;
            std::copy(own, own + s.width * N, sums);
            for (int64_t r = first + 1; r <= last; r++) {
                own += s.row * N;
                for (int64_t i = 0; i < s.width * N; i++)
                    sums[i] += own[i];
            }
            float *out = to + c * next.plane + next.origin + row * next.row * N;
            if (!wide) {
                const float share = 0.5f / float(last - first + 1);
                for (int64_t column = 0; column < next.width; column++)
                    for (int i = 0; i < N; i++)
                        out[column * N + i] = (sums[2 * column * N + i] + sums[(2 * column + 1) * N + i]) * share;
                continue;
            }
            for (int64_t column = 0; column < next.width; column++) {
                const int64_t left = std::max<int64_t>(2 * column - 1, 0), right = std::min(2 * column + 1, s.width - 1);
                const float share = 1.0f / float((last - first + 1) * (right - left + 1));
                for (int i = 0; i < N; i++) {
                    float sum = 0;
                    for (int64_t k = left; k <= right; k++)
                        sum += sums[k * N + i];
                    out[column * N + i] = sum * share;
                }
            }
        }
}

// The means over the last maps, and their largest values, if these are asked for. Sums of rows are added up, so that
// round-off does not grow with the size of a map.
template <int N> void summarise(const Job &job, const Stage &s, int64_t first, const float *from) {
    const int64_t n = std::min<int64_t>(N, job.images - first), channels = job.layers[job.n_layers - 1].channels;
    const float share = 1.0f / float(s.height * s.width);
    float *to = job.y + first * channels * (job.maximum ? 2 : 1);
    for (int64_t c = 0; c < channels; c++) {
        float sum[N] = {}, most[N] = {}; // rectified values are at least 0
        for (int64_t row = 0; row < s.height; row++) {
            const float *own = from + c * s.plane + s.origin + row * s.row * N;
            float line[N] = {};
            for (int64_t column = 0; column < s.width; column++, own += N)
                for (int i = 0; i < N; i++) {
                    line[i] += own[i];
                    most[i] = own[i] > most[i] ? own[i] : most[i];
                }
            for (int i = 0; i < N; i++)
                sum[i] += line[i];
        }
        for (int64_t i = 0; i < n; i++) {
            float *image = to + i * channels * (job.maximum ? 2 : 1);
            image[c] = sum[i] * share;
            if (job.maximum)
                image[channels + c] = sum[i] == sum[i] ? most[i] : sum[i]; // what is not a number stays so
        }
    }
}

template <int N> void pass(const Job &job, int64_t first) {
    const Prepared &prepared = *job.prepared;
    float *maps = reinterpret_cast<float *>(maps_memory.data), *band_at = reinterpret_cast<float *>(band_memory.data);
    const auto buffer = [&](int64_t number) { return maps + prepared.buffers[number] * LANES; };
    read_images(job, prepared.stages[0], first, buffer(0));
    for (int64_t i = 0; i < job.n_layers; i++) {
        const Layer &layer = job.layers[i];
        const Step &step = prepared.steps[i];
        const Stage &s = prepared.stages[step.stage], &next = prepared.stages[step.stage + step.halve];
        const float *x = buffer(step.from), *shortcut = step.shortcut < 0 ? nullptr : buffer(step.shortcut);
        if (step.at_once) {
            convolve_halved(*layer.parts, s, next, step.steps[0].data(), x, buffer(step.to));
            continue;
        }
        for (const Band &band : step.bands) {
            Outputs to{buffer(step.to), s.plane, shortcut, layer.shortcut_channels};
            if (step.halve) {
                to.plane = (blocks_of(band.rows * s.row * N, LANES) + 1) * LANES;
                to.at = band_at - s.origin - band.top * s.row * N;
            }
            for (int64_t p = 0; p < layer.n_parts; p++) {
                const Part &part = layer.parts[p];
                if (is_direct(part))
                    convolve_direct(part, s, step, band, step.steps[p].data(), x, to);
                else
                    by_kind(part, [&](auto h, auto a) {
                        convolve<decltype(h), decltype(a)>(part, s, step, band, step.steps[p].data(), x, to);
                    });
            }
            if (step.halve)
                average<N>(s, next, band, layer.channels, band_at, to.plane, buffer(step.to));
        }
    }
    summarise<N>(job, prepared.stages[prepared.last_stage], first, buffer(prepared.last_buffer));
}

void work(void *data) {
    Job &job = *static_cast<Job *>(data);
    noted(job.threads, [&] {
        const Prepared &prepared = *job.prepared;
        bool ready = false;
        for (int64_t number; (number = job.threads.next++) * job.together < job.images;) {
            if (!ready) { // by threads that have something to do
                std::memset(maps_memory.at_least(prepared.size), 0, prepared.size * sizeof(V)); // borders stay so
                band_memory.at_least(prepared.band);
                tile_memory.at_least(prepared.tile);
                products_memory.at_least(prepared.products);
                ready = true;
            }
            const int64_t first = number * job.together;
            switch (job.together) {
            case 1: pass<1>(job, first); break;
            case 2: pass<2>(job, first); break;
#if LANES >= 8
            case 4: pass<4>(job, first); break;
#endif
#if LANES >= 16
            case 8: pass<8>(job, first); break;
#endif
            default: pass<LANES>(job, first);
            }
        }
    });
}

} // namespace

extern "C" {

// How many values of 32 bits the blocks of a part take.
int64_t skequinas_packed_size(const Part *part) {
    return by_kind(*part, [&](auto h, auto a) { return blocks_size<decltype(h), decltype(a)>(part->orbits); });
}

// blocks = those of the kernel
void skequinas_pack(const Part *part) {
    by_kind(*part, [&](auto h, auto a) {
        typedef decltype(h) H;
        typedef decltype(a) A;
        const int64_t n = part->orbits.fields_in * part->orbits.taps;
        const auto read = [&](int64_t orbit, int64_t k, int64_t e) { return part->kernel[(orbit * n + k) * H::order + e]; };
        pack<H, A>(part->orbits, read, static_cast<typename A::Weight *>(part->blocks));
    });
}

// y = statistics of the last maps. 0, or 1 if there is no memory.
int skequinas_rest(Job *job) {
    return guarded([&] {
        if (!job->together)
            job->together = suited(*job);
        const Prepared prepared(*job);
        job->prepared = &prepared;
        run(job->threads, work, job);
        return int(job->threads.failed);
    });
}
}
