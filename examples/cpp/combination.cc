#include "combination.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <stdexcept>

namespace {

enum Rule { kMeanOfLogits, kSumOfLogits, kMeanOfSoftmaxes, kShareOfVotes };

Rule RuleOf(const std::string& scheme) {
  static const std::map<std::string, Rule> rules = {
      {"fusion", kMeanOfLogits},
      {"nested_fusion", kMeanOfLogits},
      {"sampled_nested_fusion", kMeanOfLogits},
      {"boosting", kSumOfLogits},
      {"soft_boosting", kSumOfLogits},
      {"hard_voting", kShareOfVotes},
      {"voting", kMeanOfSoftmaxes},
      {"bagging", kMeanOfSoftmaxes},
      {"batch_bagging", kMeanOfSoftmaxes},
      {"snapshot", kMeanOfSoftmaxes},
      {"fast_geometric", kMeanOfSoftmaxes},
      {"adversarial", kMeanOfSoftmaxes},
      {"adaboost", kMeanOfSoftmaxes},
      {"stochastic_rounding", kMeanOfSoftmaxes},
  };
  auto found = rules.find(scheme);
  if (found == rules.end()) throw std::runtime_error("unknown scheme " + scheme);
  return found->second;
}

double Log(float probability) {
  return std::log(std::max(probability, std::numeric_limits<float>::min()));
}

std::vector<double> Softmax(const std::vector<double>& logits) {
  double largest = *std::max_element(logits.begin(), logits.end()), sum = 0;
  std::vector<double> values;
  for (double each : logits) {
    values.push_back(std::exp(each - largest));
    sum += values.back();
  }
  for (double& each : values) each /= sum;
  return values;
}

}  // namespace

std::vector<float> Combined(const std::vector<std::vector<float>>& logits,
                            const std::string& scheme, const std::vector<double>& weights,
                            double temperature) {
  const Rule rule = RuleOf(scheme);
  const bool of_logits = rule == kMeanOfLogits || rule == kSumOfLogits;

  std::vector<double> sum(logits[0].size());
  double weight_sum = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    std::vector<double> values(logits[i].begin(), logits[i].end());
    if (rule == kShareOfVotes) {
      auto winner = std::max_element(values.begin(), values.end()) - values.begin();
      std::fill(values.begin(), values.end(), 0.);
      values[static_cast<size_t>(winner)] = 1;
    } else if (!of_logits) {
      values = Softmax(values);
    }
    for (size_t c = 0; c < sum.size(); ++c) sum[c] += weights[i] * values[c];
    weight_sum += weights[i];
  }
  if (rule != kSumOfLogits) {
    for (double& each : sum) each /= weight_sum;
  }
  if (of_logits) sum = Softmax(sum);

  std::vector<float> probabilities(sum.begin(), sum.end());
  if (temperature == 0) return probabilities;
  for (size_t c = 0; c < sum.size(); ++c) {  // of votes most shares are 0, without a logarithm
    sum[c] = (rule == kShareOfVotes ? probabilities[c] : Log(probabilities[c])) / temperature;
  }
  sum = Softmax(sum);
  return {sum.begin(), sum.end()};
}

double LogMargin(const std::vector<float>& probabilities) {
  if (probabilities.size() < 2) return 0;
  std::vector<float> sorted = probabilities;
  std::nth_element(sorted.begin(), sorted.begin() + 1, sorted.end(), std::greater<float>());
  return Log(sorted[0]) - Log(sorted[1]);
}
