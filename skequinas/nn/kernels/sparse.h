// Rows of sparse matrices, and their sums.

#pragma once

#include <algorithm>
#include <cstdint>

namespace {

struct Sparse { // rows of a sparse matrix; without starts it is the identity
    const int32_t *starts, *indices; // (n_rows + 1,), (n_entries,)
    const float *factors;            // or null, where they are one
    int64_t n_rows;
};

// to = a row of the product of a sparse matrix and rows of `width` values, each of them times factor_of(its number)
template <class F>
void gather(const Sparse &matrix, int64_t row, int64_t width, const float *from, float *__restrict to, F factor_of) {
    std::fill(to, to + width, 0.0f);
    for (int64_t i = matrix.starts[row]; i < matrix.starts[row + 1]; i++) {
        const int64_t index = matrix.indices[i];
        const float factor = factor_of(index) * (matrix.factors ? matrix.factors[i] : 1.0f);
        const float *__restrict own = from + index * width;
        for (int64_t j = 0; j < width; j++)
            to[j] += factor * own[j];
    }
}

inline void gather(const Sparse &matrix, int64_t row, int64_t width, const float *from, float *to) {
    gather(matrix, row, width, from, to, [](int64_t) { return 1.0f; });
}

} // namespace
