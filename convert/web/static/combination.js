// Combines the members' logits as larq_ensemble.runtime.combination and .cascade do.

const TINY = 2 ** -126; // the smallest normal float32

const mean = (rows, weights) => {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weightedSum(rows, weights).map((value) => value / total);
};

const weightedSum = (rows, weights) =>
  Array.from(rows[0], (_, k) => rows.reduce((sum, row, i) => sum + weights[i] * row[k], 0));

const meanOfLogits = (rows, weights) => softmax(mean(rows, weights));
const sumOfLogits = (rows, weights) => softmax(weightedSum(rows, weights));
const meanOfSoftmaxes = (rows, weights) => mean(rows.map(softmax), weights);
const shareOfVotes = (rows, weights) =>
  mean(rows.map((row) => Array.from(row, (_, k) => Number(k === argmax(row)))), weights);

const COMBINATIONS = {
  fusion: meanOfLogits,
  nested_fusion: meanOfLogits,
  sampled_nested_fusion: meanOfLogits,
  boosting: sumOfLogits,
  soft_boosting: sumOfLogits,
  hard_voting: shareOfVotes,
  voting: meanOfSoftmaxes,
  bagging: meanOfSoftmaxes,
  batch_bagging: meanOfSoftmaxes,
  snapshot: meanOfSoftmaxes,
  fast_geometric: meanOfSoftmaxes,
  adversarial: meanOfSoftmaxes,
  adaboost: meanOfSoftmaxes,
  stochastic_rounding: meanOfSoftmaxes,
};

const RULE = "log_margin"; // of the cascade

/** Whether this page can combine a file's members, and run its cascade if it has one. */
export const isKnown = ({ scheme, cascade }) =>
  Object.hasOwn(COMBINATIONS, scheme) && (!cascade || cascade.rule === RULE);

/** The index of the largest value; of equal ones the lowest. */
export const argmax = (row) => row.reduce((best, value, k) => (value > row[best] ? k : best), 0);

/** exp(z_k) / sum_j exp(z_j). */
export function softmax(row) {
  const values = Array.from(row);
  const largest = values.reduce((most, value) => Math.max(most, value), -Infinity);
  const powers = values.map((value) => Math.exp(value - largest));
  const sum = powers.reduce((total, value) => total + value, 0);
  return powers.map((value) => value / sum);
}

/**
 * The prediction of the first m members, calibrated if the file is.
 *
 * @param {ArrayLike<number>[]} logits of m members.
 * @param {{scheme: string, weights?: number[], temperatures?: number[]}} metadata of the file.
 * @returns {number[]} a probability for each class.
 */
export function predict(logits, { scheme, weights, temperatures }) {
  const combination = COMBINATIONS[scheme];
  const each = (weights ?? logits.map(() => 1)).slice(0, logits.length);
  const probabilities = combination(logits, each).map(Math.fround); // so ties are ties, too
  if (!temperatures) return probabilities;
  const temperature = temperatures[logits.length - 1];
  const score = combination === shareOfVotes ? (p) => p : (p) => Math.log(Math.max(p, TINY));
  return softmax(probabilities.map((p) => score(p) / temperature));
}

/** ln p_first - ln p_second of the two likeliest classes; 0 for a single class. */
export function logMargin(probabilities) {
  const at = argmax(probabilities);
  const first = probabilities[at];
  const others = probabilities.filter((_, k) => k !== at);
  const second = others.length ? others[argmax(others)] : first;
  return Math.log(Math.max(first, TINY)) - Math.log(Math.max(second, TINY));
}

/** Whether `members` are enough: the log margin reaches the threshold of the cascade. */
export function isConfident(probabilities, members, cascade) {
  const threshold = cascade.thresholds[members - 1] ?? null;
  return threshold !== null && logMargin(probabilities) >= threshold;
}
