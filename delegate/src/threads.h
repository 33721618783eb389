/** A few threads that share the rows of one operator. */
#ifndef LARQ_ENSEMBLE_THREADS_H_
#define LARQ_ENSEMBLE_THREADS_H_

#include <stdint.h>

typedef struct Threads Threads;

/** Does part `part` of `parts` of a job. */
typedef void (*ThreadJob)(void* job, int32_t part, int32_t parts);

/** `count` includes the caller; NULL if it is 1 or less, or if there is no memory or no thread:
 * then threads_run(NULL, ...) does everything itself. */
Threads* threads_create(int32_t count);

/** The caller does part 0 and returns when all are done. One run at a time. In a child after fork,
 * where only the caller is left, the caller does everything. */
void threads_run(Threads* threads, ThreadJob work, void* job);

/** Joins them. NULL is allowed. */
void threads_free(Threads* threads);

/** Rows [first, last) of part `part` when `rows` are shared evenly. */
void threads_share(int32_t rows, int32_t part, int32_t parts, int32_t* first, int32_t* last);

#endif
