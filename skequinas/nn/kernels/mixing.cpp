// A weighted sum of kernels that are constrained to several subgroups, and its gradients; see filters.py.
//
// Each row of the sum is made of free weights, all of one row of the weights alike, by a sparse matrix.

#include "sparse.h"
#include "threads.h"
#include "vectors.h"

#include <cmath>

namespace {

constexpr int64_t CHUNK = 8; // rows that a thread takes at once

struct Job {
    Sparse forward, backward; // from free weights to coefficients, and its transpose
    const int64_t *sizes; // (n_parts,): rows of the weights of each
    const int32_t *owner; // of each row of the weights its part
    int64_t n_parts, width;
    const float *weights, *shares, *norms; // (n_free, width), (n_parts,), (n_parts,) or null
    float *ratios, *factors; // (n_parts,): norms by those of the weights, and shares times these
    float *rows;             // (n_coefficients, width)
    const float *gradient;   // alike
    float *dweights, *dshares;
    Threads threads;
    float *along, *shrink; // (n_free,), (n_parts,)
};

void measure(void *data) {
    Job &job = *static_cast<Job *>(data);
    for (int64_t part; (part = job.threads.next++) < job.n_parts;) {
        job.ratios[part] = 1.0f;
        if (job.norms) {
            const float *own = job.weights;
            for (int64_t before = 0; before < part; before++)
                own += job.sizes[before] * job.width;
            const float norm = float(std::sqrt(product_of(own, own, job.sizes[part] * job.width)));
            job.ratios[part] = job.norms[part] / norm;
        }
        job.factors[part] = job.shares[part] * job.ratios[part];
    }
}

// f(row) for all rows
template <class F> void each_row(Job &job, int64_t n_rows, F f) {
    for (int64_t first; (first = CHUNK * job.threads.next++) < n_rows;)
        for (int64_t row = first; row < std::min(first + CHUNK, n_rows); row++)
            f(row);
}

void sum(void *data) {
    Job &job = *static_cast<Job *>(data);
    each_row(job, job.forward.n_rows, [&](int64_t row) {
        gather(job.forward, row, job.width, job.weights, job.rows + row * job.width,
               [&](int64_t index) { return job.factors[job.owner[index]]; });
    });
}

void sum_back(void *data) {
    Job &job = *static_cast<Job *>(data);
    each_row(job, job.backward.n_rows, [&](int64_t row) {
        float *to = job.dweights + row * job.width;
        gather(job.backward, row, job.width, job.gradient, to);
        const float factor = job.factors[job.owner[row]];
        for (int64_t j = 0; j < job.width; j++)
            to[j] *= factor;
        job.along[row] = float(product_of(to, job.weights + row * job.width, job.width));
    });
}

void take_along(void *data) {
    Job &job = *static_cast<Job *>(data);
    each_row(job, job.backward.n_rows, [&](int64_t row) {
        float *__restrict to = job.dweights + row * job.width;
        const float *__restrict along = job.weights + row * job.width;
        const float factor = -job.shrink[job.owner[row]];
        for (int64_t j = 0; j < job.width; j++)
            to[j] += factor * along[j];
    });
}

} // namespace

extern "C" {

// rows = the weighted sum. 0, or 1 if there is no memory.
int skequinas_mix(Job *job) {
    return guarded([&] {
        run(job->threads, measure, job);
        run(job->threads, sum, job);
        return 0;
    });
}

// The gradients of weights and shares, given that of the rows. A part's norm is fixed, where there are norms: growing
// it gains nothing. 0, or 1 if there is no memory.
int skequinas_mix_backward(Job *job) {
    return guarded([&] {
        std::vector<float> along(job->backward.n_rows), shrink(job->n_parts);
        job->along = along.data();
        job->shrink = shrink.data();
        run(job->threads, sum_back, job);
        const float *own = along.data();
        for (int64_t part = 0; part < job->n_parts; own += job->sizes[part++]) {
            double sum = 0;
            for (int64_t row = 0; row < job->sizes[part]; row++)
                sum += own[row];
            const float share = job->shares[part];
            job->dshares[part] = share > 0 ? float(sum / share) : 0.0f;
            if (job->norms) {
                const double ratio = job->ratios[part] / job->norms[part];
                shrink[part] = float(sum * ratio * ratio);
            }
        }
        if (job->norms)
            run(job->threads, take_along, job);
        return 0;
    });
}
}
