#include "device.h"

enum { TICK_MS = 1000 }; /* leakage and sleep are drawn at least so often */

device device_on(const device_costs *costs, const harvest *trace, unsigned length) {
  device made = {costs, trace, trace + length - 1, 0, 0, 0};
  return made;
}

uint64_t device_stored_nj(const device *self) { return self->stored_pj / 1000; }

/* Charges the capacitor while power is drawn; nW * ms = pJ. */
static void pass(device *self, uint32_t until_ms, uint32_t drawn_nw) {
  uint64_t draw_nw = (uint64_t)drawn_nw + self->costs->leakage_nw;
  while (self->time_ms < until_ms) {
    while (self->now < self->last && self->now->until_ms <= self->time_ms) self->now++;
    int past = self->now->until_ms <= self->time_ms; /* the trace ends while an image runs */
    uint32_t to_ms = past || until_ms < self->now->until_ms ? until_ms : self->now->until_ms;
    uint32_t ms = to_ms - self->time_ms;
    if (!past) self->stored_pj += (uint64_t)self->now->power_nw * ms;
    self->stored_pj -= draw_nw * ms < self->stored_pj ? draw_nw * ms : self->stored_pj;
    uint64_t full_pj = 1000 * self->costs->capacity_nj;
    if (self->stored_pj > full_pj) self->stored_pj = full_pj;
    self->time_ms = to_ms;
  }
}

int device_sleep(device *self, uint32_t until_ms) {
  int turned_on = 0;
  while (self->time_ms < until_ms) {
    int on = self->on;
    uint32_t left_ms = until_ms - self->time_ms;
    pass(self, self->time_ms + (left_ms < TICK_MS ? left_ms : TICK_MS),
         on ? self->costs->sleep_nw : 0);
    if (on && self->stored_pj == 0) self->on = 0;
    if (!on && self->stored_pj >= 1000 * self->costs->turn_on_nj) self->on = turned_on = 1;
  }
  return turned_on;
}

int device_run(device *self, uint64_t nj, uint32_t ms) {
  if (self->stored_pj < 1000 * nj) {
    self->stored_pj = 0;
    self->on = 0;
    return 0;
  }
  self->stored_pj -= 1000 * nj;
  pass(self, self->time_ms + ms, 0);
  return 1;
}
