/*
 * A device that lives on harvested energy, simulated: a capacitor, a harvester and a clock. On a
 * real board the clock and the capacitor are there, and power_policy_stored_nj tells how full it
 * is.
 *
 * benchmarks/intermittent.py is the same in Python: all numbers are whole, so both give the same.
 */
#ifndef DEVICE_H
#define DEVICE_H

#include <stdint.h>

#include "power_policy.h"

/* What the device takes. */
typedef struct {
  uint64_t capacity_nj;         /* what the full capacitor gives before the supply browns out */
  uint64_t turn_on_nj;          /* from which on the device starts after that */
  uint32_t leakage_nw;          /* drawn always */
  uint32_t sleep_nw;            /* drawn while the device sleeps */
  uint32_t period_ms;           /* from one image to the next */
  uint64_t begin_nj, member_nj; /* of an image before its first member; of a member */
  uint32_t begin_ms, member_ms;
} device_costs;

/* Power that is harvested until a time. */
typedef struct {
  uint32_t until_ms, power_nw;
} harvest;

typedef struct {
  const device_costs *costs;
  const harvest *now, *last; /* of the trace */
  uint64_t stored_pj;
  uint32_t time_ms;
  int on; /* 0: its RAM is lost, the policy's state too */
} device;

/* With an empty capacitor, off, at the start of a trace. */
device device_on(const device_costs *costs, const harvest *trace, unsigned length);

/* What is stored, in nanojoules. */
uint64_t device_stored_nj(const device *self);

/* Sleeps, or waits for energy, until a time. Returns whether the device turned on meanwhile. */
int device_sleep(device *self, uint32_t until_ms);

/*
 * Pays for `begin` or a member, and lets its time pass. Returns 0 if the supply browned out: then
 * the device is off.
 */
int device_run(device *self, uint64_t nj, uint32_t ms);

#endif
