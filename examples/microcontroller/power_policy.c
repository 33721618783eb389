#include "power_policy.h"

/* a - b, or 0. */
static uint64_t less(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

/* n(E). */
static unsigned affordable(const power_policy *policy, uint64_t stored_nj) {
  uint64_t left = less(less(stored_nj, policy->reserve_nj), policy->begin_nj);
  if (left < policy->member_nj) return 0;
  uint64_t members = less(left, policy->savings_nj) / policy->member_nj;
  if (members < 1) return 1;
  return members < policy->members ? (unsigned)members : policy->members;
}

unsigned power_policy_start(power_policy *policy, uint64_t stored_nj) {
  unsigned members = affordable(policy, stored_nj);
  if (members > policy->last) {
    members = affordable(policy, less(stored_nj, policy->hysteresis_nj));
    if (members < policy->last) members = policy->last;
  }
  policy->last = members;
  return members;
}

int power_policy_proceed(const power_policy *policy, uint64_t stored_nj) {
  return less(stored_nj, policy->reserve_nj) >= policy->member_nj;
}

uint64_t power_policy_stored_nj(uint32_t capacitance_uf, uint16_t voltage_mv,
                                uint16_t brown_out_mv) {
  if (voltage_mv <= brown_out_mv) return 0;
  uint64_t squares = (uint64_t)voltage_mv * voltage_mv - (uint64_t)brown_out_mv * brown_out_mv;
  return capacitance_uf * squares / 2000; /* uF * mV^2 = 1e-12 J */
}
