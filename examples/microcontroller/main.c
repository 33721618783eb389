/*
 * Firmware that classifies images with as many members as the harvested energy allows. The ensemble
 * is real, as `larq-ensemble export` wrote it; capacitor, harvester and camera are those of
 * scenario.h, which benchmarks/harvesting.py wrote.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>

#include "device.h"
#include "ensemble.h"
#include "power_policy.h"
#include "scenario.h"

typedef struct {
  unsigned images, answers, correct, members, brown_outs;
} tally;

static uint64_t arena[(ENSEMBLE_ARENA_BYTES + 7) / 8];

/* The likeliest class, and by how much: ln p_first - ln p_second. */
static unsigned likeliest(const float *probabilities, float *log_margin) {
  unsigned best = 0;
  float first = -1, second = 0;
  for (unsigned i = 0; i < ENSEMBLE_CLASSES; i++) {
    if (probabilities[i] > first) {
      second = first < 0 ? 0 : first;
      first = probabilities[i];
      best = i;
    } else if (probabilities[i] > second) {
      second = probabilities[i];
    }
  }
  *log_margin = logf(first / second);
  return best;
}

/*
 * Runs an image as the policy says. Returns the number of members of the answer, of class
 * `*answer`; 0: sleep on, or the supply browned out, and then the device is off; negative: an
 * error.
 */
static int classify(device *self, power_policy *policy, const uint8_t *image, unsigned *answer) {
  unsigned members = power_policy_start(policy, device_stored_nj(self));
  if (members == 0 || !device_run(self, costs.begin_nj, costs.begin_ms)) return 0;
  int ran = ensemble_begin(arena, image);
  if (ran < 0) return ran;
  do {
    static float probabilities[ENSEMBLE_CLASSES];
    float log_margin;
    if (!device_run(self, costs.member_nj, costs.member_ms)) return 0;
    ran = ensemble_next(arena, probabilities);
    if (ran < 0) return ran;
    *answer = likeliest(probabilities, &log_margin);
    if (log_margin >= enough[ran - 1]) break;
  } while ((unsigned)ran < members && power_policy_proceed(policy, device_stored_nj(self)));
  return ran;
}

int main(void) {
  unsigned length = sizeof trace / sizeof *trace;
  uint64_t end_ms = trace[length - 1].until_ms;
  device self = device_on(&costs, trace, length);
  power_policy policy = policy_at_power_up;
  tally total = {0, 0, 0, 0, 0};

  for (uint64_t at_ms = 0; at_ms < end_ms; at_ms += costs.period_ms) {
    unsigned next = total.images++ % IMAGES, answer = 0;
    if (device_sleep(&self, (uint32_t)at_ms)) policy = policy_at_power_up;
    if (!self.on || self.time_ms > at_ms) continue; /* off, or busy with the last image */
    int members = classify(&self, &policy, images[next], &answer);
    if (members < 0) {
      printf("error %d\n", members);
      return 1;
    }
    if (members > 0) {
      total.answers++;
      total.members += (unsigned)members;
      total.correct += answer == labels[next];
    } else if (!self.on) {
      total.brown_outs++;
    }
  }
  device_sleep(&self, (uint32_t)end_ms);
  printf("images %u, answers %u, correct %u, members %u, brown-outs %u, stored %llu nJ\n",
         total.images, total.answers, total.correct, total.members, total.brown_outs,
         (unsigned long long)device_stored_nj(&self));
  return 0;
}
