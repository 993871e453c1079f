// A step of Muon for constrained kernels; see optimizer.py for what it is.
//
// The free weights of a kernel fall into one block, or several, for each representation of its subgroup, by a sparse
// matrix. Each block moves along the polar factor of its momentum, by Newton-Schulz iterations on its square.

#include "sparse.h"
#include "threads.h"
#include "vectors.h"

#include <cmath>

namespace {

constexpr float A = 3.4445f, B = -4.7750f, C = 2.0315f;
constexpr int STEPS = 5;
constexpr float TINY = 1e-30f;

struct Part { // of a kernel: what belongs to one of its subgroups
    int64_t n_free;
    Sparse to_blocks, from_blocks;
    int64_t n_shapes;
    const int64_t *shapes; // (n_shapes, 3): so many blocks, of so many rows and columns for each pair of fields
};

struct Kernel {
    float *weight;         // (sum of n_free, n_out, n_in)
    const float *gradient; // alike
    float *momentum;       // alike
    const float *norms;    // (n_parts,)
    const Part *parts;
    int64_t n_parts, n_out, n_in;
};

struct Job {
    const Kernel *kernels;
    int64_t n;
    float rate, momentum;
    Threads threads;
};

// Entries of all blocks of a part for each pair of fields: those of complex representations stand there twice.
int64_t entries_of(const Part &part) {
    int64_t n = 0;
    for (int64_t s = 0; s < part.n_shapes; s++)
        n += part.shapes[3 * s] * part.shapes[3 * s + 1] * part.shapes[3 * s + 2];
    return n;
}

// A matrix (n, depth) is packed as the left of a product, given its transpose, whose rows are filled up with zeros.
void pack(const float *turned, int64_t n, int64_t depth, int64_t stride, float *packed) {
    for (int64_t k = 0; k < depth; k++)
        for (int64_t first = 0; first < n; first += ROWS)
            std::memcpy(packed + first * depth + k * ROWS, turned + k * stride + first, ROWS * sizeof(float));
}

// The transpose of a matrix (n, m).
void turn_over(const float *matrix, int64_t n, int64_t m, int64_t stride, float *turned, int64_t turned_stride) {
    for (int64_t i = 0; i < n; i += LANES)
        for (int64_t j = 0; j < m; j += LANES) {
            if (i + LANES <= n && j + LANES <= m) {
                V v[LANES];
                for (int k = 0; k < LANES; k++)
                    v[k] = load(matrix + (i + k) * stride + j);
                transpose(v);
                for (int k = 0; k < LANES; k++)
                    store(turned + (j + k) * turned_stride + i, v[k]);
                continue;
            }
            for (int64_t a = i; a < std::min<int64_t>(i + LANES, n); a++)
                for (int64_t b = j; b < std::min<int64_t>(j + LANES, m); b++)
                    turned[b * turned_stride + a] = matrix[a * stride + b];
        }
}

struct Work {
    Memory memory[10];
    float *values(int i, int64_t n) { return reinterpret_cast<float *>(memory[i].at_least(blocks_of(n, LANES))); }
};

thread_local Work work;

// The product of two matrices (n, depth), (depth, n), the left one packed, where it is known to be symmetric: what lies
// below the diagonal is a copy, also of what is computed: iterations blow up what is not symmetric. What is padded is zero.
void multiply_symmetric(const float *left, const float *right, int64_t n, int64_t depth, int64_t padded, float *result) {
    constexpr int64_t width = COLUMNS * LANES;
    const int64_t stride = padded / LANES;
    for (int64_t c = 0; c < padded; c += width)
        multiply_all(left, std::min(c + width, n), reinterpret_cast<const V *>(right + c), depth,
                     std::min(width, padded - c) / LANES, stride, reinterpret_cast<V *>(result + c));
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++)
            result[i * padded + j] = result[j * padded + i];
}

// The polar factor of a matrix (n, m), about, in its place.
void polar(float *matrix, int64_t rows, int64_t columns) {
    const bool wide = rows <= columns;
    const int64_t n = wide ? rows : columns, m = wide ? columns : rows;
    const int64_t padded = blocks_of(n, LANES) * LANES, long_padded = blocks_of(m, LANES) * LANES;
    const int64_t in_blocks = blocks_of(n, ROWS) * ROWS; // products write so many rows
    float *x = work.values(0, in_blocks * long_padded), *turned = work.values(1, m * padded);
    std::fill(x, x + in_blocks * long_padded, 0.0f);
    std::fill(turned, turned + m * padded, 0.0f);
    float *same = wide ? x : turned;
    for (int64_t i = 0; i < rows; i++)
        std::copy(matrix + i * columns, matrix + (i + 1) * columns, same + i * (wide ? long_padded : padded));
    wide ? turn_over(x, n, m, long_padded, turned, padded) : turn_over(turned, m, n, padded, x, long_padded);
    float *packed = work.values(2, in_blocks * std::max(m, n));
    const int64_t size = in_blocks * padded;
    float *square = work.values(3, 3 * size), *factor = square + size, *product = square + 2 * size;
    const auto times = [&](const float *right, float *product_of_both) { // polynomials of one matrix, which commute
        multiply_symmetric(packed, right, n, n, padded, product_of_both);
    };
    pack(turned, n, m, padded, packed);
    multiply_symmetric(packed, turned, n, m, padded, square);
    float scale = 0;
    for (int64_t i = 0; i < n; i++)
        scale += square[i * padded + i];
    scale = std::max(scale, 1.1754944e-38f);
    for (int64_t i = 0; i < size; i++)
        square[i] /= scale;
    float *spare = work.values(4, size);
    for (int step = 0; step < STEPS; step++) {
        pack(square, n, n, padded, packed);
        times(square, factor);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++)
                factor[i * padded + j] =
                    C * factor[i * padded + j] + B * square[i * padded + j] + (i == j ? A : 0.0f);
        pack(factor, n, n, padded, packed);
        if (step) {
            times(product, spare);
            std::swap(product, spare);
        } else {
            std::copy(factor, factor + size, product);
        }
        if (step < STEPS - 1) {
            float *half = step ? spare : work.values(5, size); // free again
            times(square, half);
            pack(half, n, n, padded, packed);
            times(factor, square);
        }
    }
    pack(product, n, n, padded, packed);
    float *result = work.values(5, in_blocks * long_padded);
    multiply_all(packed, n, reinterpret_cast<const V *>(x), n, long_padded / LANES, long_padded / LANES,
                 reinterpret_cast<V *>(result));
    if (!wide)
        turn_over(result, n, m, long_padded, matrix, columns);
    const float last = 1.0f / std::sqrt(scale);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            matrix[i * columns + j] = last * (wide ? result[i * long_padded + j] : matrix[i * columns + j]);
}

struct Unit { // of work: one part of one kernel, whose values stay in the caches of one thread
    const Kernel *kernel;
    const Part *part;
    int64_t first; // row of the weights
    float norm;
    int64_t cost;
};

struct Plan {
    Job *job;
    std::vector<Unit> units; // the largest first
};

int64_t cost_of(const Part &part, const Kernel &kernel) {
    int64_t cost = 0;
    for (int64_t s = 0; s < part.n_shapes; s++) {
        const int64_t rows = part.shapes[3 * s + 1] * kernel.n_out, columns = part.shapes[3 * s + 2] * kernel.n_in;
        cost += part.shapes[3 * s] * rows * columns * std::min(rows, columns);
    }
    return cost;
}

// f(entry, block) for each entry (row, column) of blocks: its number, and where it has its first output of n_out, which
// lie a row of the matrix (rows * out, columns * in) apart, as the third argument says.
template <class F> void each_entry(const Part &part, int64_t n_out, int64_t n_in, float *blocks, F f) {
    int64_t entry = 0;
    for (int64_t s = 0; s < part.n_shapes; s++) {
        const int64_t n = part.shapes[3 * s], rows = part.shapes[3 * s + 1], columns = part.shapes[3 * s + 2];
        for (int64_t b = 0; b < n * rows; b++)
            for (int64_t c = 0; c < columns; c++)
                f(entry++, blocks + (b * n_out * columns + c) * n_in, columns * n_in);
        blocks += n * rows * n_out * columns * n_in;
    }
}

float norm(const float *values, int64_t n) {
    return std::max(float(std::sqrt(product_of(values, values, n))), TINY);
}

void turn(const Unit &unit, float rate, float share) {
    const Kernel &kernel = *unit.kernel;
    const Part &part = *unit.part;
    const int64_t n_out = kernel.n_out, n_in = kernel.n_in, width = n_out * n_in;
    const int64_t size = part.n_free * width, n_entries = entries_of(part) * width;
    float *direction = work.values(6, size), *blocks = work.values(7, n_entries);
    float *entries = work.values(8, n_entries), *own = work.values(9, width);
    float *__restrict weight = kernel.weight + unit.first * width;
    float *__restrict momentum = kernel.momentum + unit.first * width;
    const float *__restrict gradient = kernel.gradient + unit.first * width;
    for (int64_t j = 0; j < size; j++) {
        momentum[j] = share * momentum[j] + gradient[j];
        direction[j] = gradient[j] + share * momentum[j];
    }
    const bool mapped = part.to_blocks.starts;
    each_entry(part, n_out, n_in, blocks, [&](int64_t entry, float *block, int64_t stride) {
        const float *from = mapped ? own : direction + entry * width;
        if (mapped)
            gather(part.to_blocks, entry, width, direction, own);
        for (int64_t o = 0; o < n_out; o++)
            std::copy(from + o * n_in, from + (o + 1) * n_in, block + o * stride);
    });
    float *matrix = blocks;
    for (int64_t s = 0; s < part.n_shapes; s++) {
        const int64_t rows = part.shapes[3 * s + 1] * n_out, columns = part.shapes[3 * s + 2] * n_in;
        for (int64_t b = 0; b < part.shapes[3 * s]; b++, matrix += rows * columns)
            polar(matrix, rows, columns);
    }
    each_entry(part, n_out, n_in, blocks, [&](int64_t entry, float *block, int64_t stride) {
        float *to = (mapped ? entries : direction) + entry * width;
        for (int64_t o = 0; o < n_out; o++)
            std::copy(block + o * stride, block + o * stride + n_in, to + o * n_in);
    });
    if (mapped)
        for (int64_t row = 0; row < part.n_free; row++)
            gather(part.from_blocks, row, width, entries, direction + row * width);
    const float length = rate * unit.norm / norm(direction, size);
    for (int64_t j = 0; j < size; j++)
        weight[j] -= length * direction[j];
    const float scale = unit.norm / norm(weight, size);
    for (int64_t j = 0; j < size; j++)
        weight[j] *= scale;
}

void turn_all(void *data) {
    Plan &plan = *static_cast<Plan *>(data);
    Job &job = *plan.job;
    noted(job.threads, [&] {
        for (int64_t i; (i = job.threads.next++) < int64_t(plan.units.size());)
            turn(plan.units[i], job.rate, job.momentum);
    });
}

} // namespace

extern "C" {

// Make one step with all kernels. 0, or 1 if there is no memory; then some parts have moved, and others have not.
int skequinas_muon(Job *job) {
    return guarded([&] {
        Plan plan{job, {}};
        for (int64_t i = 0; i < job->n; i++) {
            const Kernel &kernel = job->kernels[i];
            int64_t first = 0;
            for (int64_t p = 0; p < kernel.n_parts; first += kernel.parts[p++].n_free)
                plan.units.push_back(
                    {&kernel, kernel.parts + p, first, kernel.norms[p], cost_of(kernel.parts[p], kernel)});
        }
        std::stable_sort(plan.units.begin(), plan.units.end(),
                         [](const Unit &a, const Unit &b) { return a.cost > b.cost; });
        run(job->threads, turn_all, &plan);
        return int(job->threads.failed);
    });
}
}
