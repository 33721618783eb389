#include "combination.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

namespace {

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
  static const std::set<std::string> kMeanOfLogits = {"fusion", "nested_fusion",
                                                      "sampled_nested_fusion"};
  static const std::set<std::string> kSumOfLogits = {"boosting", "soft_boosting"};
  const bool votes = scheme == "hard_voting";
  const bool of_logits = kMeanOfLogits.count(scheme) || kSumOfLogits.count(scheme);

  std::vector<double> sum(logits[0].size());
  double weight_sum = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    std::vector<double> values(logits[i].begin(), logits[i].end());
    if (votes) {
      auto winner = std::max_element(values.begin(), values.end()) - values.begin();
      std::fill(values.begin(), values.end(), 0.);
      values[static_cast<size_t>(winner)] = 1;
    } else if (!of_logits) {
      values = Softmax(values);
    }
    for (size_t c = 0; c < sum.size(); ++c) sum[c] += weights[i] * values[c];
    weight_sum += weights[i];
  }
  if (!kSumOfLogits.count(scheme)) {
    for (double& each : sum) each /= weight_sum;
  }
  if (of_logits) sum = Softmax(sum);

  std::vector<float> probabilities(sum.begin(), sum.end());
  if (temperature == 0) return probabilities;
  for (size_t c = 0; c < sum.size(); ++c) {  // of votes most shares are 0, without a logarithm
    sum[c] = (votes ? probabilities[c] : Log(probabilities[c])) / temperature;
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
