// A step of Muon for constrained kernels; see optimizer.py for what it is.
//
// The free weights of a kernel fall into one block, or several, for each representation of its subgroup, by a sparse
// matrix. Each block moves along the polar factor of its momentum, by Newton-Schulz iterations on its square.

#include "threads.h"
#include "vectors.h"

#include <cmath>
#include <memory>

namespace {

constexpr float A = 3.4445f, B = -4.7750f, C = 2.0315f;
constexpr int STEPS = 5;
constexpr float TINY = 1e-30f;

struct Sparse { // rows of a sparse matrix; without starts it is the identity
    const int32_t *starts, *indices;
    const float *factors; // or null, where they are one
};

struct Kernel {
    float *weight;         // (n_free, n_out, n_in)
    const float *gradient; // alike
    float *momentum;       // alike
    const float *norms;    // (n_parts,)
    int64_t n_free, n_out, n_in;
    int64_t n_parts;
    const int64_t *parts; // (n_parts,): rows of the weights of each
    Sparse to_blocks, from_blocks;
    int64_t n_shapes;
    const int64_t *shapes; // (n_shapes, 3): so many blocks, of so many rows and columns for each pair of fields
};

struct Job {
    Kernel *kernels;
    int64_t n;
    float rate, momentum;
    Threads threads;
};

// to[row] = the sum of rows of `from`, each `width` values
void gather(const Sparse &matrix, int64_t n, int64_t width, const float *from, float *to) {
    for (int64_t row = 0; row < n; row++, to += width) {
        if (!matrix.starts) {
            std::copy(from + row * width, from + (row + 1) * width, to);
            continue;
        }
        std::fill(to, to + width, 0.0f);
        for (int64_t i = matrix.starts[row]; i < matrix.starts[row + 1]; i++) {
            const float factor = matrix.factors ? matrix.factors[i] : 1.0f;
            const float *own = from + matrix.indices[i] * width;
            for (int64_t j = 0; j < width; j++)
                to[j] += factor * own[j];
        }
    }
}

// Entries of all blocks of a kernel for each pair of fields: those of complex representations stand there twice.
int64_t entries_of(const Kernel &kernel) {
    int64_t n = 0;
    for (int64_t s = 0; s < kernel.n_shapes; s++)
        n += kernel.shapes[3 * s] * kernel.shapes[3 * s + 1] * kernel.shapes[3 * s + 2];
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
    Memory memory[6];
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

struct Matrix {
    float *data;
    int64_t rows, columns;
};

struct Step { // of one kernel: its direction, and its blocks, one after the other; all that is read is written before
    std::unique_ptr<float[]> direction, entries, blocks;
};

struct Plan {
    Job *job;
    std::vector<Step> steps;
    std::vector<Matrix> matrices; // the largest first
};

// Entries (rows, columns, out, in) of blocks, to or from matrices (rows * out, columns * in).
template <bool BACK> void arrange(const Kernel &kernel, float *entries, float *blocks) {
    const int64_t n_out = kernel.n_out, n_in = kernel.n_in;
    for (int64_t s = 0; s < kernel.n_shapes; s++) {
        const int64_t n = kernel.shapes[3 * s], rows = kernel.shapes[3 * s + 1], columns = kernel.shapes[3 * s + 2];
        for (int64_t b = 0; b < n * rows; b++)
            for (int64_t c = 0; c < columns; c++)
                for (int64_t o = 0; o < n_out; o++, entries += n_in) {
                    float *own = blocks + ((b * n_out + o) * columns + c) * n_in;
                    if (BACK)
                        std::copy(own, own + n_in, entries);
                    else
                        std::copy(entries, entries + n_in, own);
                }
        blocks += n * rows * n_out * columns * n_in;
    }
}

void start(void *data) {
    Plan &plan = *static_cast<Plan *>(data);
    for (int64_t i; (i = plan.job->threads.next++) < plan.job->n;) {
        const Kernel &kernel = plan.job->kernels[i];
        Step &step = plan.steps[i];
        const int64_t width = kernel.n_out * kernel.n_in, size = kernel.n_free * width;
        const float momentum = plan.job->momentum;
        for (int64_t j = 0; j < size; j++) {
            kernel.momentum[j] = momentum * kernel.momentum[j] + kernel.gradient[j];
            step.direction[j] = kernel.gradient[j] + momentum * kernel.momentum[j];
        }
        gather(kernel.to_blocks, entries_of(kernel), width, step.direction.get(), step.entries.get());
        arrange<false>(kernel, step.entries.get(), step.blocks.get());
    }
}

void turn(void *data) {
    Plan &plan = *static_cast<Plan *>(data);
    for (int64_t i; (i = plan.job->threads.next++) < int64_t(plan.matrices.size());)
        try {
            polar(plan.matrices[i].data, plan.matrices[i].rows, plan.matrices[i].columns);
        } catch (const std::bad_alloc &) {
            plan.job->threads.failed = 1;
        }
}

float norm(const float *values, int64_t n) {
    return std::max(float(std::sqrt(product_of(values, values, n))), TINY);
}

void finish(void *data) {
    Plan &plan = *static_cast<Plan *>(data);
    for (int64_t i; (i = plan.job->threads.next++) < plan.job->n;) {
        const Kernel &kernel = plan.job->kernels[i];
        Step &step = plan.steps[i];
        const int64_t width = kernel.n_out * kernel.n_in;
        arrange<true>(kernel, step.entries.get(), step.blocks.get());
        gather(kernel.from_blocks, kernel.n_free, width, step.entries.get(), step.direction.get());
        float *weight = kernel.weight;
        const float *direction = step.direction.get();
        for (int64_t part = 0; part < kernel.n_parts; part++) {
            const int64_t size = kernel.parts[part] * width;
            const float length = plan.job->rate * kernel.norms[part] / norm(direction, size);
            for (int64_t j = 0; j < size; j++)
                weight[j] -= length * direction[j];
            const float scale = kernel.norms[part] / norm(weight, size);
            for (int64_t j = 0; j < size; j++)
                weight[j] *= scale;
            weight += size;
            direction += size;
        }
    }
}

} // namespace

extern "C" {

// Make one step with all kernels. 0, or 1 if there is no memory.
int skequinas_muon(Job *job) {
    return guarded([&] {
        Plan plan{job, std::vector<Step>(job->n), {}};
        for (int64_t i = 0; i < job->n; i++) {
            const Kernel &kernel = job->kernels[i];
            const int64_t size = kernel.n_free * kernel.n_out * kernel.n_in;
            Step &step = plan.steps[i];
            const int64_t n_entries = entries_of(kernel) * kernel.n_out * kernel.n_in;
            step.direction.reset(new float[size]);
            step.entries.reset(new float[n_entries]);
            step.blocks.reset(new float[n_entries]);
            float *data = step.blocks.get();
            for (int64_t s = 0; s < kernel.n_shapes; s++) {
                const int64_t *shape = kernel.shapes + 3 * s;
                const int64_t rows = shape[1] * kernel.n_out, columns = shape[2] * kernel.n_in;
                for (int64_t b = 0; b < shape[0]; b++, data += rows * columns)
                    plan.matrices.push_back({data, rows, columns});
            }
        }
        std::stable_sort(plan.matrices.begin(), plan.matrices.end(), [](const Matrix &a, const Matrix &b) {
            return std::min(a.rows, a.columns) > std::min(b.rows, b.columns);
        });
        run(job->threads, start, &plan);
        run(job->threads, turn, &plan);
        if (!job->threads.failed)
            run(job->threads, finish, &plan);
        return int(job->threads.failed);
    });
}
}
