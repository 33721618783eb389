/*
 * How many members of an ensemble stored energy allows, for devices that live on harvested energy.
 *
 * The same policy in Python is larq_ensemble.runtime.power.PowerPolicy: for equal numbers both
 * decide equally. With the stored energy E
 *
 *     left = E - reserve - begin
 *     n(E) = 0                                               if left < member
 *            min(members, max(1, floor((left - savings) / member)))   otherwise
 *
 * An image gets n(E) members. More than the last image got only if they would be paid for with
 * `hysteresis` less energy, too. So
 *
 *   - nothing starts that stored energy doesn't pay for, whatever is harvested meanwhile;
 *   - as long as there is little, images get one member, for which a joule buys most correct
 *     answers, and the more is stored above `savings`, the more members run: the level settles
 *     where images consume what is harvested, and a full store need not turn energy away;
 *   - the number goes down at once, but up only with a surplus: it doesn't flap.
 *
 * All energies are whole numbers of nanojoules. E counts from the voltage at which the supply
 * browns out: power_policy_stored_nj.
 */
#ifndef POWER_POLICY_H
#define POWER_POLICY_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  unsigned members;       /* at most so many run: M, or fewer; at least 1 */
  uint64_t begin_nj;      /* an image before its first member: camera, begin, sending the answer */
  uint64_t member_nj;     /* a member; at least 1 */
  uint64_t reserve_nj;    /* never planned with: errors of measurement, what leaks meanwhile */
  uint64_t savings_nj;    /* kept for later images: a full store less one by all members */
  uint64_t hysteresis_nj; /* the surplus with which the number may rise; about a member */
  unsigned last;          /* state: the members of the last image; 0 at power-up */
} power_policy;

/* How many members to run on an image that is there now: from 0 (sleep on) to policy->members. */
unsigned power_policy_start(power_policy *policy, uint64_t stored_nj);

/*
 * Whether a member may start now: E >= reserve + member. Members may take more than they were
 * measured to. So ask before each, and if it may not, deliver the answer of those before it.
 */
int power_policy_proceed(const power_policy *policy, uint64_t stored_nj);

/*
 * What a capacitor can give before the supply browns out: C (V^2 - V_brown-out^2) / 2, rounded
 * down; 0 below that voltage. Both voltages are of the capacitor.
 */
uint64_t power_policy_stored_nj(uint32_t capacitance_uf, uint16_t voltage_mv,
                                uint16_t brown_out_mv);

#ifdef __cplusplus
}
#endif

#endif
