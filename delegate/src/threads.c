#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif
#include "threads.h"

#include <stdbool.h>
#include <stddef.h>

void threads_share(int32_t rows, int32_t part, int32_t parts, int32_t* first, int32_t* last) {
  *first = (int32_t)((int64_t)rows * part / parts);
  *last = (int32_t)((int64_t)rows * (part + 1) / parts);
}

#if defined(_WIN32)

Threads* threads_create(int32_t count) {
  (void)count;
  return NULL;
}

void threads_run(Threads* threads, ThreadJob work, void* job) {
  (void)threads;
  work(job, 0, 1);
}

void threads_free(Threads* threads) { (void)threads; }

#else

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

enum { kMaxThreads = 64 };

struct Threads {
  pthread_mutex_t mutex;
  pthread_cond_t posted, done;
  ThreadJob work;
  void* job;
  uint64_t run;    /* number of the job */
  int32_t pending; /* workers that aren't through with it */
  bool ends;
  pid_t process;    /* that has the workers */
  int32_t started;  /* workers */
  int32_t numbered; /* workers that know their part */
  pthread_t workers[kMaxThreads];
};

static void* worker(void* argument) {
  Threads* t = argument;
  uint64_t seen = 0;
  pthread_mutex_lock(&t->mutex);
  const int32_t part = ++t->numbered;
  for (;;) {
    while (t->run == seen && !t->ends) pthread_cond_wait(&t->posted, &t->mutex);
    if (t->ends) break;
    seen = t->run;
    const ThreadJob work = t->work;
    void* job = t->job;
    const int32_t parts = t->started + 1;
    pthread_mutex_unlock(&t->mutex);
    work(job, part, parts);
    pthread_mutex_lock(&t->mutex);
    if (--t->pending == 0) pthread_cond_signal(&t->done);
  }
  pthread_mutex_unlock(&t->mutex);
  return NULL;
}

Threads* threads_create(int32_t count) {
  if (count <= 1) return NULL;
  if (count > kMaxThreads) count = kMaxThreads;
  Threads* t = calloc(1, sizeof *t);
  if (t == NULL) return NULL;
  t->process = getpid();
  pthread_mutex_init(&t->mutex, NULL);
  pthread_cond_init(&t->posted, NULL);
  pthread_cond_init(&t->done, NULL);
  while (t->started < count - 1 && pthread_create(&t->workers[t->started], NULL, worker, t) == 0)
    t->started++;
  if (t->started > 0) return t;
  threads_free(t);
  return NULL;
}

/** A child after fork has no workers, and copies of locks that may be held. */
static bool has_workers(const Threads* t) { return t != NULL && t->process == getpid(); }

void threads_run(Threads* t, ThreadJob work, void* job) {
  if (!has_workers(t)) {
    work(job, 0, 1);
    return;
  }
  pthread_mutex_lock(&t->mutex);
  t->work = work;
  t->job = job;
  t->pending = t->started;
  t->run++;
  pthread_cond_broadcast(&t->posted);
  pthread_mutex_unlock(&t->mutex);
  work(job, 0, t->started + 1);
  pthread_mutex_lock(&t->mutex);
  while (t->pending > 0) pthread_cond_wait(&t->done, &t->mutex);
  pthread_mutex_unlock(&t->mutex);
}

void threads_free(Threads* t) {
  if (has_workers(t)) {
    pthread_mutex_lock(&t->mutex);
    t->ends = true;
    pthread_cond_broadcast(&t->posted);
    pthread_mutex_unlock(&t->mutex);
    for (int32_t i = 0; i < t->started; i++) pthread_join(t->workers[i], NULL);
    pthread_cond_destroy(&t->done);
    pthread_cond_destroy(&t->posted);
    pthread_mutex_destroy(&t->mutex);
  }
  free(t);
}

#endif
