// Batch norm of orbits: from sums over channels to an affine map of each, and from sums of gradients to gradients.
//
// A job has sums in double precision (PARTS, 2, channels), taken over fixed parts of what there is and added in their
// order, so that they do not depend on the number of threads.

#pragma once

#include "threads.h"

#include <algorithm>
#include <cmath>

namespace {

constexpr int64_t PARTS = 64;

// From the sums of x and of its squares, about a pivot for each channel, to the affine map.
template <class Job> void summarise(const Job &job, const float *pivot) {
    const int64_t n = job.channels;
    const double positions = double(job.images) * job.height * job.width;
    for (int64_t field = 0; field < n / job.order; field++) {
        double mean = 0, variance = 0;
        for (int64_t c = field * job.order; c < (field + 1) * job.order; c++) {
            double first = 0, second = 0;
            for (int64_t number = 0; number < PARTS; number++) {
                first += job.sums[2 * n * number + c];
                second += job.sums[2 * n * number + n + c];
            }
            first /= positions;
            variance += std::max(second / positions - first * first, 0.0);
            first += pivot[c];
            if (job.offset)
                first += job.offset[c];
            job.channel_means[c] = float(first);
            mean += first;
        }
        mean /= double(job.order);
        variance /= double(job.order);
        for (int64_t c = field * job.order; c < (field + 1) * job.order; c++) {
            const double from = job.channel_means[c] - mean;
            variance += from * from / double(job.order);
        }
        job.mean[field] = float(mean);
        job.variance[field] = float(variance);
        const double slope = job.weight[field] / std::sqrt(variance + job.eps);
        for (int64_t c = field * job.order; c < (field + 1) * job.order; c++) {
            job.slope[c] = float(slope);
            job.shift[c] = float(job.bias[field] + slope * ((job.offset ? job.offset[c] : 0.0) - mean));
        }
    }
}

// What is taken from x of each channel where sums of gradients are taken.
template <class Job> void centre(const Job &job, float *pivot) {
    for (int64_t c = 0; c < job.channels; c++)
        pivot[c] = job.mean[c / job.order] - (job.offset ? job.offset[c] : 0.0f);
}

// From the sums of the gradient, and of it times x about its centre, to the gradients of what there is one of for each
// field or channel; and to that of x, which is slope * gradient + along * x + level.
template <class Job> void summarise_gradients(const Job &job, float *level, float *along) {
    const int64_t n = job.channels;
    const double positions = double(job.images) * job.height * job.width, all = positions * double(job.order);
    for (int64_t field = 0; field < n / job.order; field++) {
        const double precision = 1 / std::sqrt(job.variance[field] + job.eps);
        double first = 0, second = 0;
        for (int64_t c = field * job.order; c < (field + 1) * job.order; c++) {
            double own = 0;
            for (int64_t number = 0; number < PARTS; number++) {
                own += job.sums[2 * n * number + c];
                second += job.sums[2 * n * number + n + c];
            }
            first += own;
            level[c] = float(own);
        }
        second *= precision;
        job.dbias[field] = float(first);
        job.dweight[field] = float(second);
        for (int64_t c = field * job.order; c < (field + 1) * job.order; c++) {
            const double moved = (job.channel_means[c] - job.mean[field]) * precision;
            if (job.doffset)
                job.doffset[c] = float(job.slope[c] * (level[c] - positions * (first + second * moved) / all));
            const double pivot = job.mean[field] - (job.offset ? job.offset[c] : 0.0);
            const double tilt = -job.slope[c] * second / all * precision;
            along[c] = float(tilt);
            level[c] = float(-job.slope[c] * first / all - tilt * pivot);
        }
    }
}

} // namespace
