// Batch norm of orbits, the addition of a shortcut, the rectifier and halving, in as few passes over memory as can be.
//
// Maps lie as (images, height, width, channels), the channels of a field one after the other. Sums are taken over
// fixed parts of the images, and added in their order, so that they do not depend on the number of threads.

#include "statistics.h"

namespace {

struct Job {
    int64_t images, height, width, channels;
    int64_t order;             // channels of a field
    int64_t shortcut_channels; // to the first so many a shortcut is added; 0: there is none
    int64_t halve;             // whether blocks of 2x2 positions are averaged
    double eps;
    const float *x;        // (images, height, width, channels)
    const float *shortcut; // (images, height, width, shortcut_channels)
    const float *offset;   // (channels,): is added to x before; or null
    const float *weight, *bias; // (fields,)
    float *y;              // (images, height, width, channels), or half as high and wide
    float *mean, *variance; // (fields,)
    float *channel_means;  // (channels,), with the offset
    float *slope, *shift;  // (channels,): the affine map of x
    const float *gradient; // that of y
    float *dx, *dshortcut, *dweight, *dbias, *doffset;
    Threads threads;
    double *sums; // (PARTS, 2, channels)
    const float *level, *along; // (channels,): means over the field of the gradient, and of it times normalised x
};

// The rows of all images, as one list, from the first of a part to that of the next; pairs of rows stay together.
inline int64_t part(const Job &job, int64_t number) {
    return job.images * job.height / 2 * number / PARTS * 2 + (number == PARTS ? job.images * job.height % 2 : 0);
}

// Two sums over each channel, part by part: add(row, column, first, second) adds what a position gives.
template <class F> void sum_positions(Job &job, F add) {
    const int64_t n = job.channels;
    std::vector<float> memory(2 * n);
    float *first = memory.data(), *second = first + n;
    for (int64_t number; (number = job.threads.next++) < PARTS;) {
        double *total = job.sums + 2 * n * number;
        std::fill(total, total + 2 * n, 0.0);
        for (int64_t row = part(job, number); row < part(job, number + 1); row++) {
            std::fill(first, first + 2 * n, 0.0f);
            for (int64_t column = 0; column < job.width; column++)
                add(row, column, first, second);
            for (int64_t c = 0; c < 2 * n; c++)
                total[c] += first[c];
        }
    }
}

// Sums of x and of its squares, about the first value of each channel.
void sum(void *data) {
    Job &job = *static_cast<Job *>(data);
    noted(job.threads, [&] {
        const int64_t n = job.channels;
        const float *__restrict pivot = job.x;
        sum_positions(job, [&](int64_t row, int64_t column, float *__restrict first, float *__restrict second) {
            const float *__restrict x = job.x + (row * job.width + column) * n;
            for (int64_t c = 0; c < n; c++) {
                const float v = x[c] - pivot[c];
                first[c] += v;
                second[c] += v * v;
            }
        });
    });
}

// What the rectifier is given at a position, for each channel. What is not a number stays so, here and below.
inline void affine(const Job &job, const float *__restrict x, const float *__restrict shortcut, float *__restrict v) {
    const float *__restrict slope = job.slope, *__restrict shift = job.shift;
    for (int64_t c = 0; c < job.channels; c++)
        v[c] = slope[c] * x[c] + shift[c];
    for (int64_t c = 0; c < job.shortcut_channels; c++)
        v[c] += shortcut[c];
}

void apply(void *data) {
    Job &job = *static_cast<Job *>(data);
    noted(job.threads, [&] {
        const int64_t n = job.channels, m = job.shortcut_channels;
        std::vector<float> memory(n);
        float *__restrict v = memory.data();
        for (int64_t number; (number = job.threads.next++) < PARTS;)
            for (int64_t row = part(job, number); row < part(job, number + 1); row++)
                for (int64_t column = 0; column < job.width; column++) {
                    const int64_t at = row * job.width + column;
                    if (!job.halve) {
                        float *__restrict y = job.y + at * n;
                        affine(job, job.x + at * n, job.shortcut + at * m, y);
                        for (int64_t c = 0; c < n; c++)
                            y[c] = y[c] < 0 ? 0 : y[c];
                        continue;
                    }
                    float *__restrict y = job.y + (row / 2 * (job.width / 2) + column / 2) * n;
                    affine(job, job.x + at * n, job.shortcut + at * m, v);
                    if (row % 2 == 0 && column % 2 == 0)
                        for (int64_t c = 0; c < n; c++)
                            y[c] = (v[c] < 0 ? 0 : v[c]) * 0.25f;
                    else
                        for (int64_t c = 0; c < n; c++)
                            y[c] += (v[c] < 0 ? 0 : v[c]) * 0.25f;
                }
    });
}

// The gradient of what the rectifier is given at a position; v holds that.
inline void rectified(const Job &job, int64_t row, int64_t column, float *__restrict v) {
    const int64_t n = job.channels, at = row * job.width + column;
    const float *__restrict gradient =
        job.gradient + (job.halve ? row / 2 * (job.width / 2) + column / 2 : at) * n;
    const float share = job.halve ? 0.25f : 1.0f;
    for (int64_t c = 0; c < n; c++)
        v[c] = v[c] <= 0 ? 0 : gradient[c] * share;
}

// Sums of the gradient, and of it times normalised x, over each channel.
void sum_gradients(void *data) {
    Job &job = *static_cast<Job *>(data);
    noted(job.threads, [&] {
        const int64_t n = job.channels, m = job.shortcut_channels;
        std::vector<float> memory(2 * n);
        float *__restrict v = memory.data(), *__restrict pivot = v + n;
        centre(job, pivot);
        sum_positions(job, [&](int64_t row, int64_t column, float *__restrict first, float *__restrict second) {
            const int64_t at = row * job.width + column;
            const float *__restrict x = job.x + at * n;
            affine(job, x, job.shortcut + at * m, v);
            rectified(job, row, column, v);
            for (int64_t c = 0; c < n; c++) {
                first[c] += v[c];
                second[c] += v[c] * (x[c] - pivot[c]);
            }
        });
    });
}

void apply_gradients(void *data) {
    Job &job = *static_cast<Job *>(data);
    noted(job.threads, [&] {
        const int64_t n = job.channels, m = job.shortcut_channels;
        std::vector<float> memory(n);
        float *__restrict v = memory.data();
        const float *__restrict slope = job.slope, *__restrict level = job.level, *__restrict along = job.along;
        for (int64_t number; (number = job.threads.next++) < PARTS;)
            for (int64_t row = part(job, number); row < part(job, number + 1); row++)
                for (int64_t column = 0; column < job.width; column++) {
                    const int64_t at = row * job.width + column;
                    const float *__restrict x = job.x + at * n;
                    float *__restrict dx = job.dx + at * n;
                    affine(job, x, job.shortcut + at * m, v);
                    rectified(job, row, column, v);
                    for (int64_t c = 0; c < n; c++)
                        dx[c] = slope[c] * v[c] + along[c] * x[c] + level[c];
                    if (m)
                        std::copy(v, v + m, job.dshortcut + at * m);
                }
    });
}

} // namespace

extern "C" {

// y = the rectified batch norm of x, plus a shortcut; and its statistics. 0, or 1 if there is no memory.
int skequinas_normalize(Job *job) {
    return guarded([&] {
        std::vector<double> sums(PARTS * 2 * job->channels);
        job->sums = sums.data();
        run(job->threads, sum, job);
        if (job->threads.failed)
            return 1;
        summarise(*job, job->x);
        run(job->threads, apply, job);
        return int(job->threads.failed);
    });
}

// y, with the affine map that is given.
int skequinas_rectify(Job *job) {
    return guarded([&] {
        run(job->threads, apply, job);
        return int(job->threads.failed);
    });
}

// All gradients, given that of y.
int skequinas_normalize_backward(Job *job) {
    return guarded([&] {
        std::vector<double> sums(PARTS * 2 * job->channels);
        std::vector<float> each(2 * job->channels);
        job->sums = sums.data();
        job->level = each.data();
        job->along = each.data() + job->channels;
        run(job->threads, sum_gradients, job);
        if (job->threads.failed)
            return 1;
        summarise_gradients(*job, each.data(), each.data() + job->channels);
        run(job->threads, apply_gradients, job);
        return int(job->threads.failed);
    });
}
}
